import contextlib
import json
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ast_jax.checkpoint.torch_files import read_state_dict
from ast_jax.errors import InputError

torch = pytest.importorskip("torch")

ONE_FILE = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refusal(path):
    """Returns the InputError's message: one line that starts with the path."""
    with pytest.raises(InputError) as caught:
        read_state_dict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def every_half(dtype):
    """Returns all finite numbers of a half-precision dtype."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    numbers = bits.view(dtype)
    return numbers[torch.isfinite(numbers)]


# ---- valid files


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrap", [None, "model", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_read(tmp_path, save_torch, prefix, wrap, zipped):
    tensors = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float32(7)}
    options = {"_use_new_zipfile_serialization": zipped}
    path = save_torch(tensors, tmp_path / "x.pth", prefix, wrap, **options)
    read = read_state_dict(path).tensors
    assert set(read) == {prefix + name for name in tensors}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[prefix + name], tensor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["x.pth", "x.safetensors"])
def test_every_half_precision_number_converts_to_float32_exactly(tmp_path, dtype, kind):
    import safetensors.torch

    numbers = every_half(dtype)
    save = safetensors.torch.save_file if kind == "x.safetensors" else torch.save
    save({"w": numbers}, tmp_path / kind)
    read = read_state_dict(tmp_path / kind).tensors["w"].astype(np.float32)
    assert read.tobytes() == numbers.float().numpy().tobytes()


def test_a_parameter_that_is_a_transposed_view_is_read_in_order(tmp_path):
    matrix = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)).T
    torch.save({"w": matrix}, tmp_path / "x.pth")
    read = read_state_dict(tmp_path / "x.pth").tensors["w"]
    np.testing.assert_array_equal(read, [[0, 3], [1, 4], [2, 5]])


def test_safetensors_are_read_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    save_file({"w": np.eye(3, dtype=np.float32)}, tmp_path / "x.safetensors")
    read = read_state_dict(tmp_path / "x.safetensors").tensors["w"]
    np.testing.assert_array_equal(read, np.eye(3))


# ---- invalid files


class Malicious:
    """Runs a command if it is unpickled without restrictions."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("how", ["pickle", "zip", "legacy", "beside tensors"])
def test_code_in_a_pickle_does_not_run(tmp_path, how):
    target, path = tmp_path / "touched", tmp_path / "x.pth"
    bomb = Malicious(target)
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif how == "beside tensors":
        torch.save({"v.cls_token": torch.zeros(1), "epoch": bomb}, path)
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=how == "zip")
    assert "holds more than tensors (pickled code, or damage)" in refusal(path)
    assert not target.exists()
    # Loaded without restrictions, the code does run.
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert target.exists()


def test_a_whole_model_is_refused_with_advice(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pth")
    assert "save the model's state_dict() alone" in refusal(tmp_path / "x.pth")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Returns valid files of each kind as bytes."""
    folder = tmp_path_factory.mktemp("whole")
    tensors = {f"layer.{i}": torch.randn(5, 7) for i in range(3)}
    torch.save(tensors, folder / "zip.pth")
    torch.save(tensors, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file({k: v.numpy() for k, v in tensors.items()}, folder / "x.safetensors")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "x.safetensors"])
@ONE_FILE
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_refused(tmp_path, whole, name, share):
    (tmp_path / name).write_bytes(whole[name][: int(share * len(whole[name]))])
    refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "x.safetensors"])
@ONE_FILE
@given(place=st.floats(0, 1, exclude_max=True), noise=st.binary(min_size=1, max_size=8))
def test_a_damaged_file_is_read_or_raises_an_input_error(tmp_path, whole, name, place, noise):
    content = bytearray(whole[name])
    start = int(place * len(content))
    content[start : start + len(noise)] = noise
    (tmp_path / name).write_bytes(content)
    with contextlib.suppress(InputError):
        tensors = read_state_dict(tmp_path / name).tensors
        assert all(isinstance(tensor, np.ndarray) for tensor in tensors.values())


@ONE_FILE
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".pth", ".bin", ".safetensors"]))
def test_a_file_of_arbitrary_bytes_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([torch.zeros(1)], "holds a list, not a dict of tensors"),
        (torch.zeros(1), "holds a Tensor, not a dict of tensors"),
        ({}, "holds no tensors"),
        ({"model": {}}, "holds no tensors"),
        ({"epoch": 3, "w": torch.zeros(1)}, "entry 'epoch' is a int, not a tensor"),
        ({"w": torch.zeros(1, dtype=torch.int64)}, "tensor w holds torch.int64"),
        ({"w": torch.zeros(1, dtype=torch.complex64)}, "tensor w holds torch.complex64"),
        ({"w": torch.zeros(2, 2).to_sparse()}, "torch.sparse_coo, not dense floating-point"),
    ],
)
def test_torch_files_of_other_objects_name_the_file(tmp_path, content, complaint):
    torch.save(content, tmp_path / "x.pth")
    assert complaint in refusal(tmp_path / "x.pth")


def deflated(path, size):
    """Writes a PyTorch file whose tensor of zeros is compressed a thousandfold."""
    torch.save({"w": torch.zeros(size // 4)}, path.with_suffix(".stored"))
    with (
        zipfile.ZipFile(path.with_suffix(".stored")) as stored,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for entry in stored.infolist():
            out.writestr(entry.filename, stored.read(entry))


def nested():
    return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.strided)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: torch.zeros(3, device="meta"), "holds torch.float32, torch.strided, not dense"),
        (nested, "not dense floating-point numbers"),
        (lambda: torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4_e2m1"),
        (lambda: torch.zeros(1).expand(10**12), r"has 1000000000000 numbers, more than the file"),
        (lambda: torch.zeros(1, 1).expand(10**6, 10**6), "more than the file has bytes for"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_without_their_numbers_are_refused(tmp_path, make, complaint):
    torch.save({"w": make()}, tmp_path / "x.pth")
    assert re.search(complaint, refusal(tmp_path / "x.pth"))


def test_content_that_would_take_far_more_memory_than_the_file_is_refused(tmp_path):
    deflated(tmp_path / "x.pth", 8 << 20)
    assert re.search(r"holds 8\d{6} bytes in a file of \d{4,5};", refusal(tmp_path / "x.pth"))
    torch.save({"w": torch.zeros(1), "x": bytearray(1)}, tmp_path / "y.pth")
    assert "(a bytearray)" in refusal(tmp_path / "y.pth")
    with (tmp_path / "z.pth").open("wb") as file:
        file.truncate(1 << 40)
    assert "has 1048576 MiB, and 16384 MiB is the most" in refusal(tmp_path / "z.pth")


@pytest.mark.parametrize(
    ("shape", "size", "complaint"),
    [([1] * 100, 4, "tensor w has 100 dimensions"), ([0, 2**62], 0, "tensor w has shape (0, 4")],
)
def test_safetensors_of_shapes_that_numpy_refuses_are_refused(tmp_path, shape, size, complaint):
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}})
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(size)
    (tmp_path / "x.safetensors").write_bytes(content)
    assert complaint in refusal(tmp_path / "x.safetensors")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_pipes_and_devices_are_not_read(tmp_path, suffix):
    os.mkfifo(tmp_path / f"x{suffix}")
    (tmp_path / f"zero{suffix}").symlink_to("/dev/zero")
    for name in ("x", "zero"):
        assert "is a pipe or a device" in refusal(tmp_path / f"{name}{suffix}")


def test_a_very_long_name_is_cut_in_a_message(tmp_path):
    save_file({"a" * 2**20: np.zeros(3, np.int64)}, tmp_path / "x.safetensors")
    message = refusal(tmp_path / "x.safetensors")
    assert len(message) < 2100
    assert message.endswith("not dense floating-point numbers; save it as float32")


def test_safetensors_of_integers_name_the_tensor(tmp_path):
    save_file({"w": np.zeros(3, np.int64)}, tmp_path / "x.safetensors")
    assert "tensor w holds I64, not dense floating-point" in refusal(tmp_path / "x.safetensors")


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in refusal(tmp_path / "x.pth")
    (tmp_path / "dangling.pth").symlink_to(tmp_path / "x.pth")
    assert "no such file" in refusal(tmp_path / "dangling.pth")


def test_without_torch_the_error_says_how_to_install_it(tmp_path, monkeypatch, save_torch):
    path = save_torch({"w": np.zeros(1, np.float32)}, tmp_path / "x.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"needs PyTorch, .*; pip install torch"):
        read_state_dict(path)
