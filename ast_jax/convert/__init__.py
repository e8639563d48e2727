"""PyTorch checkpoints in and out: the original's, timm's DeiT and Hugging Face's."""
