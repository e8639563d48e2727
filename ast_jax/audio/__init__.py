"""From a sound file to the model's input: decoding, resampling, log-mel features, augmentation."""
