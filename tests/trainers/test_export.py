"""Exported models, used as BUILD.md says."""

import importlib.util
import json
import math
import re
import shutil

import keras
import numpy as np
import pytest
from conftest import ROOT, assert_one_line_error, open_split, prepare, run_in_process, small_model, write_run
from evaluating import run_record

from pipeline.errors import InputError
from pipeline.source import decode
from trainers import export_formats, run_dir
from trainers.input_pipeline import batching
from trainers.models import architectures

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
RUNTIMES = {"saved_model": "tensorflow", "onnx": "onnxruntime", "litert": "ai_edge_litert"}
FILES = {"saved_model": "saved_model", "onnx": "model.onnx", "litert": "model.tflite"}


def require(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make extras")


def make_run(folder, model):
    folder.mkdir(parents=True)
    if model.name != "basic_cnn":
        last = model.get_layer("probability").kernel
        last.assign(0.1 * np.asarray(last))  # or an untrained VGG's probabilities would all be 0
    model.save(folder / "model.keras")
    run_dir.write(str(folder), run_record())
    return folder


def examples():
    """The Python of BUILD.md's section by format."""
    section = (ROOT / "BUILD.md").read_text().partition("## Exporting a model\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return {name: next(block for block in blocks if FILES[name] in block) for name in FILES}


def use(name, run, tmp_path, monkeypatch):
    """Runs the example of a format on a run, as if it were runs/basic_cnn."""
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs/basic_cnn").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    scope = {"image": IMAGES}
    exec(examples()[name], scope)
    match name:
        case "saved_model":
            signature = scope["model"].signatures["serve"]
            names = [*signature.structured_input_signature[1], *signature.structured_outputs]
        case "onnx":
            names = [node.name for node in (*scope["session"].get_inputs(), *scope["session"].get_outputs())]
        case "litert":
            signature = scope["interpreter"].get_signature_list()["serving_default"]
            names = [*signature["inputs"], *signature["outputs"]]
    assert names == ["image", export_formats.OUTPUT_NAMES[FILES[name]]]
    return scope["probability"]


@pytest.mark.parametrize(
    ("name", "build", "policy"),
    [
        *((name, architectures.basic_cnn, "float32") for name in export_formats.NAMES),
        ("saved_model", architectures.vgg_ft, "mixed_bfloat16"),
        pytest.param("onnx", architectures.vgg_ft, "mixed_bfloat16", marks=pytest.mark.slow),
        pytest.param("litert", architectures.vgg_ft, "mixed_bfloat16", marks=pytest.mark.slow),
    ],
)
def test_exports_agree_with_the_model(name, build, policy, tmp_path, monkeypatch):
    require(RUNTIMES[name], *export_formats._FORMATS[name].needs)
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    try:
        run = make_run(tmp_path / "run", build(32))
    finally:
        keras.config.set_dtype_policy("float32")
    model = keras.models.load_model(run / "model.keras")
    assert export_formats.export(run, model, [name]) == [run / "export" / FILES[name]]
    assert [path.name for path in (run / "export").iterdir()] == [FILES[name]], "nothing else is left"
    exported = use(name, run, tmp_path, monkeypatch)
    assert (exported.dtype, exported.shape) == (np.float32, (5, 1))
    np.testing.assert_allclose(exported, model.predict(IMAGES, verbose=0), atol=1e-5 if policy == "float32" else 1e-2)
    in_float32 = build(32)
    in_float32.set_weights(model.get_weights())
    expected = in_float32.predict(IMAGES, verbose=0)
    assert expected.std() > 1e-3, "predictions differ from cell to cell"
    np.testing.assert_allclose(exported, expected, atol=1e-5)


def predict_litert(path, images):
    """Probabilities by a LiteRT model that takes uint8 and gives floats."""
    interpreter = importlib.import_module("ai_edge_litert.interpreter").Interpreter(str(path))
    (image,), (probability,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["dtype"], probability["dtype"]) == (np.uint8, np.float32)
    kernels = [tensor for tensor in interpreter.get_tensor_details() if math.prod(tensor["shape"]) > 500]
    assert np.int8 in {tensor["dtype"] for tensor in kernels}
    runner = interpreter.get_signature_runner()
    return runner(**dict.fromkeys(runner.get_input_details(), images))["output_0"][:, 0]


def test_int8_loses_no_accuracy(data_dir, synthetic_zip, tmp_path):
    require(RUNTIMES["litert"])
    split = open_split(data_dir, "train")
    images, labels, *_ = (values.numpy() for values in next(iter(batching.evaluation_batches(split, split.num_cells))))
    model = small_model()
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")
    model.fit(images, labels, batch_size=67, epochs=100, verbose=0)
    run = write_run(tmp_path / "run", data_dir, model)
    flags = (f"--run_dir={run}", "--format=litert", "--quantize=int8")
    result = run_in_process("trainers.export", *flags, f"--data_dir={data_dir}")
    assert result.returncode == 0, result.stderr
    files = [run / "export" / name for name in ("model_int8.tflite", "preprocessing.json", "golden.npz")]
    assert result.stdout.splitlines() == list(map(str, files))
    described, golden = json.loads(files[1].read_text()), np.load(files[2])
    assert set(described["input"]["dtype"].values()) == {"uint8"}
    assert (described["thresholds"], described["background"]) == ({"default": 0.5}, "keep")
    np.testing.assert_allclose(golden["probability"], model.predict(golden["image"], verbose=0))
    assert len(golden["label"]) == 10
    shown = decode.resize(golden["before_resize"], described["resize"]["size_px"])
    np.testing.assert_array_equal(shown, golden["after_resize"], strict=True)
    accuracy, expected = (
        np.mean((probabilities >= 0.5) == labels)
        for probabilities in (
            predict_litert(run / "export/model_int8.tflite", images),
            model.predict(images, verbose=0)[:, 0],
        )
    )
    assert expected > 0.95
    assert accuracy >= expected - 0.002
    assert_one_line_error(run_in_process("trainers.export", *flags, f"--data_dir={tmp_path}"), "pipeline.preprocess")
    prepare(synthetic_zip, tmp_path / "other", image_size_px=16)
    result = run_in_process("trainers.export", *flags, f"--data_dir={tmp_path / 'other'}")
    assert_one_line_error(result, "image_size_px was 32, is 16", "give the --data_dir")


def test_int8_takes_a_quarter_of_the_size(tmp_path):
    model = architectures.basic_cnn(125)
    (path,) = export_formats.export(tmp_path, model, ["litert"], np.zeros((1, 125, 125, 3), np.uint8))
    assert path.stat().st_size <= 15.5e6


def test_the_command_replaces_an_older_export(tmp_path):
    run = make_run(tmp_path / "run", architectures.basic_cnn(32))
    run_dir.write(str(run), run_record(settings={"background": "black"}))
    old = run / "export/saved_model"
    old.mkdir(parents=True)
    (old / "stale").write_text("")
    result = run_in_process("trainers.export", f"--run_dir={run}", "--format=saved_model,litert")
    assert result.returncode == 0, result.stderr
    expected = [str(old), str(run / "export/model.tflite"), str(run / "export/preprocessing.json")]
    assert result.stdout.splitlines() == expected
    assert "warning: no golden.npz: --data_dir=data has no data set" in result.stderr
    assert json.loads((run / "export/preprocessing.json").read_text())["background"] == "black"
    assert not (old / "stale").exists()
    assert (old / "saved_model.pb").exists()


def test_mistakes(tmp_path):
    model = architectures.basic_cnn(32)
    run = make_run(tmp_path / "run", model)

    def export(folder, *flags):
        return run_in_process("trainers.export", f"--run_dir={folder}", *flags)

    assert_one_line_error(
        export(run, "--format=tflite"), "--format=tflite is no known format", "saved_model,onnx,litert"
    )
    assert_one_line_error(export(run, "--format="), "--format= is no known format")
    for formats in ("onnx", "saved_model,litert"):
        result = export(run, f"--format={formats}", "--quantize=int8")
        assert_one_line_error(result, "--quantize=int8 is for --format=litert alone", f"got --format={formats}")
    assert_one_line_error(export(tmp_path / "none", "--format=litert"), "is no run")
    (tmp_path / "torn").mkdir()
    shutil.copy(run / "run.json", tmp_path / "torn")
    assert_one_line_error(export(tmp_path / "torn", "--format=litert"), "has no model.keras")
    (tmp_path / "torn/model.keras").write_bytes(b"PK torn")
    assert_one_line_error(export(tmp_path / "torn", "--format=litert"), "model.keras cannot be loaded")
    record = run_dir.read(str(run))
    run_dir.write(str(run), {**record, "status": "unfinished"})
    assert_one_line_error(export(run, "--format=litert"), "has not finished training", "run its trainer again")
    (run / "export").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written.*export again"):
        export_formats.export(run, model, ["saved_model"])


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--export=onnx needs tf2onnx and onnx; pip install tf2onnx onnx"):
        export_formats.check(["saved_model", "onnx"], "export")
    export_formats.check(["saved_model", "litert"], "export")
    with pytest.raises(InputError, match="--export=pdf is no known format"):
        export_formats.check(["onnx", "pdf"], "export")


def test_other_backends_are_sent_to_tensorflow(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match=r"not on jax; give python -m trainers.export with KERAS_BACKEND=tensorflow"):
        export_formats.export(tmp_path, None, ["onnx"])
