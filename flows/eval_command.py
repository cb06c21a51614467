"""`longfuse eval`: its flags. The work is in flows/evaluation.py, imported when it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    benchmarks: Annotated[
        list[str] | None,
        typer.Option("--benchmark", metavar="NAME", help="Ask this benchmark; repeatable. Default: all at hand."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--list", help="Show all benchmarks, and whether their data are at hand.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option("--model", metavar="DIR", help="Model folder, or a stage's data folder.")
    ] = None,
    modes: Annotated[
        list[str] | None,
        typer.Option("--mode", metavar="MODE", help="full_context (default), memory_agent, closed_book; repeatable."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, max=64, help="Answers per question (k).")] = 1,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Questions of a benchmark at most.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Benchmark files: DIR/<benchmark>/... or DIR/...")
    ] = None,
    hub: Annotated[bool, typer.Option("--hub", help="Fetch official data from the Hugging Face hub.")] = False,
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus", metavar="DIR", help="Documents for generated benchmarks: a corpus, or documents.jsonl."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Results (default: outputs/eval/<model's name>).")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="Evaluate a model behind this OpenAI-compatible API."),
    ] = None,
    endpoint_model: Annotated[
        str | None, typer.Option("--endpoint-model", metavar="NAME", help="Its name there.")
    ] = None,
    endpoint_key_env: Annotated[
        str | None, typer.Option("--endpoint-key-env", metavar="VARIABLE", help="Variable that holds its key.")
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option("--budget-tokens", min=1, help="Tokens that the endpoint may cost at most.")
    ] = None,
    window: Annotated[
        int | None,
        typer.Option("--window", min=128, help="Prompt and response that the model takes (default: its own)."),
    ] = None,
    judge_endpoint: Annotated[
        str | None, typer.Option("--judge-endpoint", metavar="URL", help="LLM judge beside the rules.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option("--judge-model", metavar="NAME", help="Its name there.")] = None,
    judge_key_env: Annotated[
        str | None, typer.Option("--judge-key-env", metavar="VARIABLE", help="Variable that holds its key.")
    ] = None,
    max_input_tokens: Annotated[
        int, typer.Option("--max-input-tokens", min=32, help="Longer prompts lose the middle of their context.")
    ] = 131_072,
    max_output_tokens: Annotated[int, typer.Option("--max-output-tokens", min=1, help="Longest response.")] = 51_200,
    reasoning_tokens: Annotated[
        int | None,
        typer.Option(
            "--reasoning-tokens", min=0, help="Room for reasoning besides the answer (default: if it reasons)."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=2, help="0 is greedy.")] = 0.7,
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1, help="Nucleus.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Equal seeds give equal answers.")] = 17,
    lengths: Annotated[
        list[int] | None,
        typer.Option("--length", min=64, help="Context length of generated benchmarks in tokens; repeatable."),
    ] = None,
    chunk_tokens: Annotated[
        int | None, typer.Option("--chunk-tokens", min=16, help="What the memory agent reads per turn.")
    ] = None,
    memory_tokens: Annotated[int | None, typer.Option("--memory-tokens", min=8, help="Its memory at most.")] = None,
    engine: Annotated[
        str, typer.Option("--engine", help="transformers, vllm, or remote (a vLLM server, LONGFUSE_ENGINE_URL).")
    ] = "transformers",
    dtype: Annotated[str, typer.Option("--dtype", help="bfloat16 or float32.")] = "bfloat16",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads on a CPU.")] = 2,
    tokenizer: Annotated[
        Path | None,
        typer.Option("--tokenizer", metavar="DIR", help="Counts tokens for an endpoint (default: characters)."),
    ] = None,
) -> None:
    """Score a model, or an API, on benchmarks: a table, and predictions.jsonl and scores.json. Run again to go on."""
    from flows.eval_request import EvalRequest
    from flows.evaluation import evaluate_request, list_benchmarks

    request = EvalRequest(
        benchmarks=tuple(benchmarks or ()),
        model=model,
        modes=tuple(modes or ("full_context",)),
        samples=samples,
        limit=limit,
        data=data,
        hub=hub,
        corpus=corpus,
        out=out,
        endpoint=endpoint,
        endpoint_model=endpoint_model,
        endpoint_key_env=endpoint_key_env,
        budget_tokens=budget_tokens,
        window=window,
        judge_endpoint=judge_endpoint,
        judge_model=judge_model,
        judge_key_env=judge_key_env,
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        reasoning_tokens=reasoning_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        lengths=tuple(lengths or ()),
        chunk_tokens=chunk_tokens,
        memory_tokens=memory_tokens,
        engine=engine,
        dtype=dtype,
        threads=threads,
        tokenizer=tokenizer,
    )
    if show:
        typer.echo("\n".join(list_benchmarks(request)))
        return
    raise typer.Exit(evaluate_request(request, say=typer.echo))
