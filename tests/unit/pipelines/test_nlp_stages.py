"""The nlp pipeline: each stage takes the answer of the one before it, and rows stay their requests'.

With stand-ins for the models everywhere; where transformers is installed, with tiny models of random weights
that are made here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceRequest, RequestInput

from ipa.dataplane.runtime import StageRuntime
from ipa.files import load_pipeline
from ipa.model.errors import NotFoundError
from ipa.targets.seldon.section import seldon_of
from pipelines.nlp import runtime
from pipelines.nlp.models import Classifier, TextToText

ROOT = Path(__file__).resolve().parents[3]
STAGES: tuple[type[StageRuntime], ...] = (runtime.Identify, runtime.Translate, runtime.Summarise)
TEXTS = ["le chat dort", "the dog runs in the park", "un long texte", "a text"]
Chain = Callable[[Sequence[str]], dict[str, list[str]]]


def chain(models: Sequence[str]) -> Chain:
    """The stages as model servers, asked as the orchestrator does: outputs become inputs."""

    async def infer(texts: Sequence[str]) -> dict[str, list[str]]:
        inputs = [RequestInput(name="text", datatype="BYTES", shape=[len(texts)], data=list(texts))]
        for stage, model in zip(STAGES, models, strict=True):
            parameters = ModelParameters(extra={"model": model})
            server = stage(ModelSettings(name="stage", implementation=stage, parameters=parameters))
            assert await server.load()
            try:
                answer = await server.predict(InferenceRequest(inputs=inputs))
            finally:
                await server.unload()
            inputs = [RequestInput(**output.model_dump(exclude_none=True)) for output in answer.outputs]
        return {each.name: list(each.data.root) for each in inputs}

    return lambda texts: asyncio.run(infer(texts))


class Labels:
    """A classifier that goes by articles."""

    def __init__(self, model: str, threads: int) -> None:
        assert (model, threads) == ("labels", 1)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        return ["French" if text.split()[0] in {"le", "un"} else "English" for text in texts]


class Marks:
    """A text model that says what it was given."""

    seen: ClassVar[list[tuple[str, list[str]]]] = []

    def __init__(self, model: str, threads: int) -> None:
        self._name = model

    def __call__(self, texts: Sequence[str]) -> list[str]:
        self.seen.append((self._name, list(texts)))
        return [f"{self._name}({text})" for text in texts]


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chain]:
    monkeypatch.setattr(runtime, "Classifier", Labels)
    monkeypatch.setattr(runtime, "TextToText", Marks)
    monkeypatch.setattr(Marks, "seen", [])
    yield chain(["labels", "english", "short"])


def test_each_stage_takes_the_answer_of_the_one_before(standing_in: Chain) -> None:
    answer = standing_in(TEXTS)
    translated = ["english(le chat dort)", TEXTS[1], "english(un long texte)", TEXTS[3]]
    assert answer == {"text": translated, "summary": [f"short({text})" for text in translated]}
    # Only what is French is translated, in one batch.
    assert Marks.seen == [("english", [TEXTS[0], TEXTS[2]]), ("short", translated)]


def test_a_row_has_the_answer_that_it_has_alone(standing_in: Chain) -> None:
    together = standing_in(TEXTS)
    alone = [standing_in([text]) for text in TEXTS]
    assert together == {name: [each[name][0] for each in alone] for name in together}


def test_its_file_names_these_stages() -> None:
    pipeline = load_pipeline(ROOT / "pipelines" / "nlp" / "pipeline.yaml")
    assert (pipeline.runnable, "weights" in pipeline.not_runnable_because) == (False, True)
    for stage, served in zip(pipeline.stages, STAGES, strict=True):
        for variant in stage.variants:
            run = seldon_of(variant)
            assert run is not None
            assert run.implementation == f"{served.__module__}.{served.__name__}"
            assert run.env["MLSERVER_MODEL_EXTRA"].replace("/", "-") == f'{{"model": "{variant.name}"}}'


real = pytest.mark.skipif(
    find_spec("transformers") is None or find_spec("torch") is None,
    reason="needs transformers and torch: pip install transformers torch sentencepiece",
)
# Weights large enough that the answer depends on the text.
TINY: Mapping[str, Any] = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "init_std": 1.0},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    **{"encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders of a classifier, a translator and a model of summaries of the shipped variants' kinds."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [*special, *sorted({word for text in TEXTS for word in text.split()})]
    plain = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    ends = {"vocab_size": len(words), "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    starts = {**ends, "decoder_start_token_id": 2, "max_position_embeddings": 64}
    labels = {"id2label": {0: "fr", 1: "en"}, "label2id": {"fr": 0, "en": 1}}
    torch.manual_seed(0)
    made = {
        "li": transformers.XLMRobertaForSequenceClassification(
            transformers.XLMRobertaConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                max_position_embeddings=64, **ends, **labels,
            )
        ),
        "trans": transformers.MarianMTModel(transformers.MarianConfig(**TINY, **starts)),
        "sum": transformers.BartForConditionalGeneration(
            transformers.BartConfig(**TINY, **starts, forced_eos_token_id=2)
        ),
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("tiny")
    for name, model in made.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return [str(folder / name) for name in made]


@real
@pytest.mark.filterwarnings("default")
def test_real_models_answer_a_row_as_they_do_alone(tiny: list[str]) -> None:
    ask = chain(tiny)
    together = ask(TEXTS)
    assert [len(rows) for rows in together.values()] == [len(TEXTS)] * 2
    assert len({*together["summary"]}) > 1
    alone = [ask([text]) for text in TEXTS]
    assert together == {name: [each[name][0] for each in alone] for name in together}


@real
@pytest.mark.filterwarnings("default")
def test_a_label_is_that_of_the_highest_score(tiny: list[str]) -> None:
    import torch
    import transformers

    classifier = Classifier(tiny[0], 1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny[0])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tiny[0]).eval()
    for text in TEXTS:
        with torch.inference_mode():
            scores = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0]
        assert classifier([text]) == ["fr" if scores[0] > scores[1] else "en"]
    assert classifier([]) == TextToText(tiny[1], 1)([]) == []


@real
@pytest.mark.filterwarnings("default")
def test_a_model_that_is_not_here_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"(?s)nobody/nothing.*HF_HOME"):
        TextToText("nobody/nothing", 1)
