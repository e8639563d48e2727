"""The model's configuration, with Hugging Face's names."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from ast_jax.errors import InputError, quoted
from ast_jax.fields import Range, check_fields, check_names, is_unicode
from ast_jax.io import write_json
from ast_jax.urls import check_local

MODEL_TYPE = "audio-spectrogram-transformer"

# The original's `model_size`. base224 and base384 are one architecture; they differ in the
# ImageNet checkpoint that training starts from (a 14 x 14 or a 24 x 24 grid of positions).
SIZES = {
    "tiny224": {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "small224": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536},
    "base224": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
    "base384": {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}

# Beyond these lies a mistake, not a model.
Count = Annotated[int, Range(1, 10**6)]
Positive = Annotated[float, Range(1e-30, 1)]

NUM_PREFIX_TOKENS = 2  # tokens before the patches: class and distillation

# Fields that define the grid of patches; a checkpoint can be adapted to other values.
GEOMETRY = ("frequency_stride", "time_stride", "max_length", "num_mel_bins")

# Hugging Face's defaults where a config.json has no such field; ours differ.
HUGGINGFACE_LAYER_NORM_EPS = 1e-12
HUGGINGFACE_NUM_LABELS = 2

# Fields of Hugging Face's config.json for training, which this model does without.
DROPOUT_FIELDS = ("hidden_dropout_prob", "attention_probs_dropout_prob")


@dataclasses.dataclass
class ASTConfig:
    """The architecture of an Audio Spectrogram Transformer; defaults are the original's base384.

    Fields that Hugging Face's `ASTConfig` has keep its names and meanings.

    Attributes:
        hidden_size: width D of a token.
        num_hidden_layers: number of encoder layers.
        num_attention_heads: heads per layer; must divide `hidden_size`.
        intermediate_size: width of the MLP's hidden layer.
        initializer_range: standard deviation of the initial weights.
        layer_norm_eps: epsilon of the encoder's layer norms (original 1e-6, Hugging Face 1e-12).
        head_layer_norm_eps: epsilon of the head's layer norm (original 1e-5; Hugging Face has no
            such field and uses `layer_norm_eps`).
        patch_size: side of a square patch, in mel bins and frames.
        qkv_bias: whether query, key and value have a bias.
        frequency_stride: step from one patch to the next, in mel bins.
        time_stride: step from one patch to the next, in frames.
        max_length: frames of an input.
        num_mel_bins: mel bins of an input.
        num_labels: number of classes.
        id2label: class names by index, or None for LABEL_0, LABEL_1, …
        problem_type: 'multi_label_classification' (sigmoid) or 'single_label_classification'
            (softmax): how logits become probabilities.
        mask_padding: whether clips shorter than the input are masked: training, evaluation and the
            classifier give the model `num_frames`. Hugging Face's model has no mask.
        frame_level: whether the head classifies each column of patches, for sound event
            detection, instead of the clip. In training the data sets it.
        dtype: dtype the encoder computes in, 'float32' or 'bfloat16', or a dtype object of that
            name, which becomes the name. Parameters and logits are float32 in both.
    """

    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count = 3072
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-6
    head_layer_norm_eps: Positive = 1e-5
    patch_size: Count = 16
    qkv_bias: bool = True
    frequency_stride: Count = 10
    time_stride: Count = 10
    max_length: Count = 1024
    num_mel_bins: Count = 128
    num_labels: Count = 527
    id2label: dict[int, str] | None = None
    problem_type: Literal["single_label_classification", "multi_label_classification"] = (
        "single_label_classification"
    )
    frame_level: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    mask_padding: bool = False

    def __post_init__(self) -> None:
        """Replaces a dtype of NumPy, JAX or PyTorch by its name."""
        if not isinstance(self.dtype, str | None):
            name = getattr(self.dtype, "name", getattr(self.dtype, "__name__", self.dtype))
            self.dtype = str(name).removeprefix("torch.")

    def __hash__(self) -> int:
        """Makes a model's graphdef hashable, which `jax.jit` requires of its arguments.

        Do not change the fields of a configuration that is in use.
        """
        return hash(tuple(value for value in vars(self).values() if not isinstance(value, dict)))

    @classmethod
    def from_size(cls, size: str, **changes: Any) -> Self:
        """Returns the configuration of one of the original's sizes, e.g. `from_size("tiny224")`."""
        if size not in SIZES:
            raise InputError(f"model size '{size}' is not one of {', '.join(SIZES)}")
        return cls().replace(**SIZES[size] | changes)

    @property
    def grid(self) -> tuple[int, int]:
        """Patches along frequency and time."""
        return (
            (self.num_mel_bins - self.patch_size) // self.frequency_stride + 1,
            (self.max_length - self.patch_size) // self.time_stride + 1,
        )

    @property
    def num_tokens(self) -> int:
        """Tokens the encoder sees: class, distillation, then the patches."""
        frequency, time = self.grid
        return NUM_PREFIX_TOKENS + frequency * time

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of an input's logits: (classes,), or (columns, classes) of a frame-level model."""
        return (self.grid[1], self.num_labels) if self.frame_level else (self.num_labels,)

    @property
    def labels(self) -> list[str]:
        """Class names in order."""
        names = self.id2label or {}
        return [names.get(i, f"LABEL_{i}") for i in range(self.num_labels)]

    @property
    def label2id(self) -> dict[str, int]:
        """Class indices by name, the inverse of `labels`.

        Raises:
            InputError: two classes have the same name.
        """
        inverse: dict[str, int] = {}
        for i, label in enumerate(self.labels):
            if inverse.setdefault(label, i) != i:
                raise InputError(
                    f"id2label has the name {quoted(label)} for the classes {inverse[label]} and "
                    f"{i}, so label2id is undefined; give each class a name of its own"
                )
        return inverse

    def replace(self, **changes: Any) -> Self:
        """Returns a validated copy with fields changed.

        A new `id2label` sets `num_labels`, and a new `num_labels` removes an `id2label` of
        another length. `label2id` is accepted too, as in Hugging Face's classes.

        Raises:
            InputError: a field does not exist or has a value that no model can have.
        """
        if label2id := changes.pop("label2id", None):
            _set_id2label(changes, label2id)
        check_names(type(self), changes)
        if changes.get("id2label"):
            changes.setdefault("num_labels", len(changes["id2label"]))
        elif self.id2label and changes.get("num_labels", self.num_labels) != self.num_labels:
            changes["id2label"] = None
        config = dataclasses.replace(self, **changes)
        config.validate()
        return config

    def validate(self) -> None:
        """Raises `InputError` naming the first field with a value that no model can have."""
        if self.dtype == "int8":
            raise InputError("dtype int8 is no longer supported; set it to bfloat16 or float32")
        check_fields(self)
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}; set both"
            )
        if self.frame_level and self.mask_padding:
            raise InputError("frame_level and mask_padding exclude each other; set one to False")
        for field_name in ("num_mel_bins", "max_length"):
            if getattr(self, field_name) < self.patch_size:
                raise InputError(
                    f"{field_name} {getattr(self, field_name)} is smaller than one patch "
                    f"(patch_size {self.patch_size})"
                )
        names = self.id2label
        if names is not None and (
            not isinstance(names, dict)
            or set(names) != set(range(self.num_labels))
            or not all(isinstance(name, str) for name in names.values())
        ):
            raise InputError(
                f"id2label must name the classes 0 to {self.num_labels - 1}, one name each"
            )
        if names and (invalid := [name for name in names.values() if not is_unicode(name)]):
            raise InputError(f"id2label has {quoted(invalid[0])}, which is no valid Unicode")

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields of Hugging Face's config.json."""
        fields = dataclasses.asdict(self)
        fields.pop("num_labels")  # Hugging Face counts id2label
        task = "AudioFrame" if fields["frame_level"] else "Audio"
        if not fields["frame_level"]:
            del fields["frame_level"]  # a field that Hugging Face does not have
        fields["id2label"] = {str(i): label for i, label in enumerate(self.labels)}
        fields["label2id"] = {label: i for i, label in enumerate(self.labels)}
        return fields | {
            "model_type": MODEL_TYPE,
            "architectures": [f"ASTFor{task}Classification"],
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any], source: str = "the configuration") -> Self:
        """Reads the fields of a config.json, ours or Hugging Face's, and ignores unknown ones.

        A field that is missing has the default of Hugging Face's class.

        Raises:
            InputError: a field has a value this model cannot have; `source` names the file.
        """
        if not isinstance(fields, dict):
            raise InputError(f"{source}: expected a JSON object of configuration fields")
        if fields.get("model_type", MODEL_TYPE) != MODEL_TYPE:
            raise InputError(
                f"{source}: model_type is {fields['model_type']!r}, not {MODEL_TYPE!r}: "
                f"this is another model's configuration"
            )
        if fields.get("hidden_act", "gelu") != "gelu":
            raise InputError(
                f"{source}: hidden_act is {fields['hidden_act']!r}, and this model only has 'gelu'"
            )
        for name in DROPOUT_FIELDS:
            rate = fields.get(name)
            if rate is not None and not (isinstance(rate, int | float) and 0 <= rate < 1):
                raise InputError(f"{source}: {name} must be from 0 to 1, not {rate!r}")
        known = {field.name for field in dataclasses.fields(cls)}
        values = {k: v for k, v in fields.items() if k in known and v is not None}
        values.setdefault("layer_norm_eps", HUGGINGFACE_LAYER_NORM_EPS)
        values.setdefault("num_labels", HUGGINGFACE_NUM_LABELS)
        values.setdefault("head_layer_norm_eps", values["layer_norm_eps"])
        if isinstance(values.get("patch_size"), list | tuple):
            values["patch_size"] = _square(values["patch_size"], source)
        if values.get("dtype") == "float16":
            values["dtype"] = "float32"  # half-precision storage; computed here in full
        try:
            if "id2label" in values:
                names = values["id2label"].items()
                if not all(isinstance(name, str | int | float) for _, name in names):
                    raise TypeError
                values["id2label"] = {int(k): str(name) for k, name in names}
                values["num_labels"] = len(values["id2label"])
                if all(name == f"LABEL_{i}" for i, name in values["id2label"].items()):
                    del values["id2label"]  # Hugging Face's names for classes without names
            return cls().replace(**values)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        except (AttributeError, TypeError, ValueError):
            raise InputError(f"{source}: id2label must map class indices to names") from None

    @classmethod
    def from_pretrained(cls, path: str | Path, **changes: Any) -> "ASTConfig":
        """Loads the configuration of a checkpoint or run of ast_jax, or of a Hugging Face folder.

        Args:
            path: the folder, or the URL of a checkpoint.
            **changes: fields to change, see `replace`.

        Raises:
            InputError: the folder has no configuration of this model.
        """
        # Imported here because loading builds on this class, not the other way round.
        from ast_jax.checkpoint.load import read_config

        return read_config(path).replace(**changes)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes config.json, which Hugging Face's class reads too, to a new or existing folder.

        `dtype` is not saved: in Hugging Face's file it is that of the stored weights.

        Raises:
            InputError: the path is a URL or a file or cannot be written, or a field is invalid.
        """
        self.validate()
        check_local(path)
        if Path(path).is_file():
            raise InputError(f"{path} is a file; give the path of a folder, new or old")
        write_json(Path(path) / "config.json", self.to_dict() | {"dtype": "float32"})


def _set_id2label(changes: dict[str, Any], label2id: Any) -> None:
    """Sets `id2label` from its inverse, or checks that the two agree."""
    try:
        inverse = {int(i): str(label) for label, i in label2id.items()}
    except (AttributeError, TypeError, ValueError):
        raise InputError("label2id must map names to class indices") from None
    if changes.setdefault("id2label", inverse) != inverse or len(inverse) != len(label2id):
        raise InputError("label2id is not the inverse of id2label; leave one of them out")


def _square(patch_size: list[int] | tuple[int, ...], source: str) -> int:
    if not patch_size or any(side != patch_size[0] for side in patch_size):
        raise InputError(f"{source}: patch_size {list(patch_size)} is not square")
    return patch_size[0]


def dropout_notes(fields: dict[str, Any]) -> list[str]:
    """Returns a note if a Hugging Face model was trained with dropout, which this model lacks."""
    rates = [f"{name} {fields[name]}" for name in DROPOUT_FIELDS if fields.get(name)]
    if not rates:
        return []
    return [
        f"{' and '.join(rates)}: not used, as this model trains without dropout; predictions are "
        f"not affected"
    ]
