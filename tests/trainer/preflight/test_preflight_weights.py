"""Files of weights are told from others by a few small reads."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

HTML = b"<!DOCTYPE html><html><body>404</body></html>"
FIELD = "spec.proposals.sam.weights"


def safetensors(*, size: int = 64) -> bytes:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def test_weights_that_are_small_are_verified(with_sam: Any) -> None:
    told = with_sam.run()

    assert (told.code, told.found["warnings"]) == (0, [])


def test_weights_with_another_sha256_are_refused(with_sam: Any) -> None:
    with_sam.document["spec"]["proposals"]["sam"]["sha256"] = "0" * 64

    told = with_sam.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (3, "ChecksumMismatch", FIELD)
    assert "sha256 000000000000… is expected, it has" in told.message


def test_a_public_file_of_another_size_is_refused(with_sam: Any) -> None:
    del with_sam.document["spec"]["proposals"]["sam"]["sha256"]

    told = with_sam.run()

    assert (told.code, told.error["reason"]) == (3, "ChecksumMismatch")
    assert "the file of this sha256 375042383" in told.message


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        pytest.param(HTML, "ChecksumMismatch", "it is a web page or an error message", id="HTML"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "WeightsInvalid", "Git LFS pointer", id="LFS"),
        pytest.param(b"PK\x03\x04 and nothing more", "WeightsInvalid", "is cut short", id="half a zip"),
        pytest.param(b"something else", "WeightsInvalid", "it begins with b'somethin'", id="something else"),
        pytest.param(b"", "WeightsInvalid", "it begins with b''", id="empty"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(with_sam: Any, content: bytes, reason: str, words: str) -> None:
    with_sam.put("models/sam.pth", content)

    told = with_sam.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (3, reason, FIELD)
    assert words in told.message


def test_a_local_web_page_is_refused_too(with_sam: Any, tmp_path: Any) -> None:
    (tmp_path / "sam.pth").write_bytes(HTML)
    with_sam.document["spec"]["proposals"]["sam"]["weights"] = str(tmp_path / "sam.pth")

    assert with_sam.run().code == 3


def test_missing_weights_are_named(with_sam: Any) -> None:
    with_sam.delete("models/sam.pth")

    told = with_sam.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (3, "NoSuchKey", FIELD)


def test_a_large_file_is_compared_by_the_checksum_that_its_upload_recorded(
    with_sam: Any, checkpoint_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.preflight.weights.READ_WHOLE_BYTES", 0)
    digest = hashlib.sha256(checkpoint_file).hexdigest()

    with_sam.put("models/sam.pth", checkpoint_file, Metadata={"sha256": digest})
    right = with_sam.run()
    with_sam.put("models/sam.pth", checkpoint_file, Metadata={"sha256": "1" * 64})
    wrong = with_sam.run()

    assert (right.code, right.found["warnings"]) == (0, [])
    assert (wrong.code, wrong.error["reason"]) == (3, "ChecksumMismatch")


def test_a_large_file_is_compared_by_the_checksum_that_the_server_keeps(
    with_sam: Any, checkpoint_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.preflight.weights.READ_WHOLE_BYTES", 0)
    digest = base64.b64encode(hashlib.sha256(checkpoint_file).digest()).decode()
    with_sam.put("models/sam.pth", checkpoint_file, ChecksumSHA256=digest)

    right = with_sam.run()
    with_sam.document["spec"]["proposals"]["sam"]["sha256"] = "0" * 64
    wrong = with_sam.run()

    assert (right.code, right.found["warnings"]) == (0, [])
    assert (wrong.code, wrong.error["reason"]) == (3, "ChecksumMismatch")


def test_a_large_file_without_a_checksum_is_a_warning(with_sam: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semires_trainer.preflight.weights.READ_WHOLE_BYTES", 0)

    told = with_sam.run()

    assert told.code == 0
    (warning,) = told.found["warnings"]
    assert warning.startswith("Only size and header were checked of s3://")


def test_few_bytes_of_a_large_file_are_read(
    with_sam: Any, make_proxy: Any, checkpoint_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semires_trainer.preflight.weights.READ_WHOLE_BYTES", 0)
    with_sam.put("models/sam.pth", checkpoint_file[:4] + bytes(8 << 20) + checkpoint_file[4:])
    proxy = make_proxy()

    with_sam.run(SEMIRES_ENDPOINT_URL=proxy.url)

    ranges = [e.request.range for e in proxy.exchanges() if "sam.pth" in e.request.path and e.request.range]
    assert sorted(ranges) == [
        "bytes=0-511",
        f"bytes={(8 << 20) + len(checkpoint_file) - 65558}-{(8 << 20) + len(checkpoint_file) - 1}",
    ]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param({"model.safetensors": safetensors()[:-1]}, "its header tells of", id="cut short"),
        pytest.param({"model.safetensors": HTML}, "it is a web page", id="HTML"),
        pytest.param({"other.bin": b"x"}, "holds none of model.safetensors, pytorch_model.bin", id="no weights"),
    ],
)
def test_a_folder_of_a_backbone_is_looked_into(scene: Any, files: dict[str, bytes], words: str) -> None:
    for name, content in files.items():
        scene.put(f"swin/{name}", content)
    scene.set("model.swin", f"{scene.uri}/swin")

    told = scene.run()

    assert (told.code, told.error["field"]) == (3, "spec.model.swin")
    assert words in told.message


@pytest.fixture
def with_bert(scene: Any) -> Any:
    """A text encoder in the hub's layout."""
    sizes = {
        **{"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 64, "max_position_embeddings": 64, "type_vocab_size": 2},
    }
    scene.put("bert/config.json", json.dumps(sizes).encode())
    scene.put("bert/model.safetensors", safetensors())
    scene.put("bert/vocab.txt", b"[PAD]\n")
    del scene.document["spec"]["model"]["textDimensions"], scene.document["spec"]["model"]["vocab"]
    scene.set("model.bert", f"{scene.uri}/bert")
    return scene


def test_a_folder_of_a_text_encoder_is_accepted(with_bert: Any) -> None:
    told = with_bert.run()

    assert told.code == 0, told.outcome


def test_a_text_encoder_without_its_sizes_is_refused(with_bert: Any) -> None:
    with_bert.delete("bert/config.json")

    told = with_bert.run()

    assert (told.code, told.error["field"]) == (3, "spec.model.bert")
    assert "has no config.json" in told.message


def test_a_text_encoder_with_another_description_is_refused(with_bert: Any) -> None:
    with_bert.put("bert/config.json", HTML)

    told = with_bert.run()

    assert (told.code, told.error["reason"], told.error["field"]) == (3, "WeightsInvalid", "spec.model.bert")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        pytest.param("", b"", "", id="whole"),
        pytest.param("model.safetensors", safetensors(size=68), "sha256", id="another file"),
        pytest.param("model.json", HTML, "does not describe a model", id="no description"),
    ],
)
def test_a_model_folder_to_start_from_is_verified(scene: Any, name: str, content: bytes, words: str) -> None:
    architecture = {
        **{"embed_dim": 8, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4},
        "text": {
            **{"vocab_size": 30, "hidden_size": 32, "layers": 1, "intermediate_size": 64},
            **{"max_positions": 32, "token_types": 2, "heads": 2},
        },
    }
    files = {"model.safetensors": safetensors(), "vocab.txt": b"[PAD]\n"}
    digests = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    files["model.json"] = json.dumps({"architecture": architecture, "sha256": digests}).encode()
    for file, data in {**files, **({name: content} if name else {})}.items():
        scene.put(f"start/{file}", data)
    scene.set("model.initFrom", f"{scene.uri}/start")
    del scene.document["spec"]["training"]["burnInEpochs"]

    told = scene.run()

    assert told.code == (3 if words else 0), told.outcome
    assert not words or (words in told.message and told.error["field"] == "spec.model.initFrom")
