"""What of a log may enter a status: short, printable, without credentials."""

from __future__ import annotations

import pytest

from semires_operator.logs import LIMIT_BYTES, clean
from semires_operator.redaction import HIDDEN

JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmF0dXJlLWJ5dGVz"
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.mark.parametrize(
    ("line", "secret"),
    [
        pytest.param(f"AWS_SECRET_ACCESS_KEY={SECRET}", SECRET, id="variable"),
        pytest.param(f"export AWS_SECRET_ACCESS_KEY='{SECRET}'", SECRET, id="quoted-variable"),
        pytest.param("AWS_ACCESS_KEY_ID: AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE", id="key-id"),
        pytest.param('{"aws_session_token": "short but secret"}', "short but secret", id="json"),
        pytest.param("password = hunter2", "hunter2", id="password"),
        pytest.param("db_passwd:hunter2, next", "hunter2", id="passwd"),
        pytest.param("GET http://user:hunter2@s3.example.com/b", "hunter2", id="url-with-user"),
        pytest.param("GET http://user:hunt@er2@s3.example.com/b", "er2", id="at-sign-in-a-password"),
        pytest.param("https://s3/b/k?X-Amz-Signature=0123abcd&x=1", "0123abcd", id="presigned-url"),
        pytest.param("Authorization: AWS4-HMAC-SHA256 Credential=abc", "Credential=abc", id="authorization"),
        pytest.param("curl -H 'bearer abcdef0123456789'", "abcdef0123456789", id="bearer"),
        pytest.param(f"token is {JWT}", JWT, id="jwt-alone"),
        pytest.param("botocore sent ASIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", id="key-id-alone"),
        pytest.param("with hf_abcdefghijklmnopqrstuvwx", "hf_abcdefghijklmnopqrstuvwx", id="hugging-face-token"),
        pytest.param("key Zm9vYmFyYmF6cXV4MTIzNDU2Nzg5MEFCQ0RFRkdISktMTU5P=", "Zm9vYmFy", id="long-random-word"),
        pytest.param("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "abc", id="private-key"),
    ],
)
def test_credentials_are_removed(line, secret):
    cleaned = clean(f"before\n{line}\nafter")

    assert secret not in cleaned
    assert HIDDEN in cleaned
    assert cleaned.startswith("before\n")


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("loss 0.31 lr 5e-05 oIoU 47.31 step 1200/40000", id="figures"),
        pytest.param("sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", id="digest"),
        pytest.param("File /usr/local/lib/python3.11/site-packages/torch/nn/modules/module.py, line 1773", id="path"),
        pytest.param("s3://results/refcoco-1pct/checkpoints/step-00000120-9f86d081884c7d65", id="uri"),
        pytest.param(f"s3://results/RefCOCO/step-00000120-{'9f86d081' * 8}/Swin", id="path-with-a-digest"),
        pytest.param("spec.storage.credentialsSecret: give it, there are no keys", id="field-that-names-a-secret"),
        pytest.param("tokenizer: bert-base-uncased, 30522 words", id="tokenizer"),
        pytest.param("RuntimeError: CUDA error: an illegal memory access was encountered", id="error"),
    ],
)
def test_what_helps_is_kept(line):
    assert clean(line) == line


def test_the_end_is_kept_in_whole_lines():
    text = "\n".join(f"line {number}" for number in range(2000))

    cleaned = clean(text, limit=100)

    assert len(cleaned) <= 100
    assert cleaned.splitlines()[-1] == "line 1999"
    assert cleaned.splitlines()[0].startswith("line ")


def test_one_endless_line_is_cut():
    assert clean("ab " * 5000, limit=100) == ("ab " * 5000)[-100:].strip("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("\x1b[31mred\x1b[0m", "red", id="colour"),
        pytest.param("\x1b]0;title\x07text", "text", id="terminal-title"),
        pytest.param("12%\r100%\r\ndone\x00", "12%\n100%\ndone", id="carriage-return"),
        pytest.param("a\u202eb\u2028c", "abc", id="bidirectional"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_control_characters_are_removed(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    "piece", ["a.", "token_", "AWS_A", "eyJ-", "secret-a", "://", "-----BEGIN "], ids=lambda piece: piece.strip("-:")
)
def test_a_text_made_to_be_slow_to_read_is_read(piece):
    text = (piece * LIMIT_BYTES)[:LIMIT_BYTES]

    assert clean(text, limit=100) == text[-100:].strip("\n")
