import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from stages.base_model.random_model import make_tokenizer
from stages.common.tokens import ChatTokenizer

TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] }}\n{% endfor %}<assistant>\n"
SECTION = "The red key was found in the kitchen.\n\n  It was Tom's."
MESSAGES = [{"role": "user", "content": f"<section>\n{SECTION}\n</section> What was found?"}]


@pytest.fixture
def byte_level(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    return ChatTokenizer(tmp_path)


def test_a_part_with_known_ids_is_not_encoded_again_and_the_text_stays(byte_level):
    marked = tuple(reversed(byte_level.encode_text(SECTION)))  # ids that encoding would not give
    ids = byte_level.encode_chat(MESSAGES, (SECTION, marked))
    assert any(ids[i : i + len(marked)] == marked for i in range(len(ids)))
    ids = byte_level.encode_chat(MESSAGES, (SECTION, byte_level.encode_text(SECTION)))
    assert byte_level.decode(ids) == byte_level.decode(byte_level.encode_chat(MESSAGES))


def test_a_part_that_the_prompt_does_not_hold_changes_nothing(byte_level):
    assert byte_level.encode_chat(MESSAGES, ("Not there.", (1, 2, 3))) == byte_level.encode_chat(MESSAGES)


def test_a_tokenizer_that_opens_every_text_with_a_blank_encodes_the_whole(tmp_path):
    words = Tokenizer(models.BPE(unk_token="<unk>", vocab={"<unk>": 0, "\u2581": 1, "</s>": 2}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    words.decoder = decoders.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATE)
    fast.save_pretrained(tmp_path)
    tokenizer = ChatTokenizer(tmp_path)
    assert tokenizer.encode_chat(MESSAGES, (SECTION, (2, 2))) == tokenizer.encode_chat(MESSAGES)
