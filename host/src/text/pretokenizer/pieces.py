#!/usr/bin/env python3
"""Writes pieces.json: how published tokenizers cut a few texts.

    pip install tokenizers==0.23.2 && python3 pieces.py > pieces.json

Each definition is the `normalizer` and `pre_tokenizer` of the tokenizer.json named beside it, run by the Python
package (its expressions by Oniguruma, not by the engine of the Rust build). Pieces are in the alphabet of one letter
per byte and joined by blanks.
"""
import json

from tokenizers import Tokenizer

CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = CL100K.replace(r"?\p{L}+", r"?[\p{L}\p{M}]+").replace(r"[^\s\p{L}\p{N}]", r"[^\s\p{L}\p{M}\p{N}]").replace("{1,3}", "")
DS_LETTERS = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
DS_V3 = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORDS = {**BYTES, "use_regex": True}
NFC, NFKC = {"type": "NFC"}, {"type": "NFKC"}

# Name of the row: where the definition is published, normalizer, pre-tokenizers.
PUBLISHED = {
    "llama-bpe": ("meta-llama/Llama-3.2-1B-Instruct", None, [split(CL100K), BYTES]),
    "dbrx": ("allenai/OLMo-2-1124-7B-Instruct", None, [split(CL100K, "Removed", True), BYTES]),
    "glm4": ("zai-org/GLM-4.7-Flash", None, [split(CL100K), BYTES]),
    "qwen2": ("Qwen/Qwen3-0.6B", NFC, [split(CL100K.replace("{1,3}", "")), BYTES]),
    "qwen35": ("Qwen/Qwen3.5-9B", NFC, [split(QWEN35), BYTES]),
    "gpt-2": ("openai-community/gpt2", None, [WORDS]),
    "mpt": ("EleutherAI/gpt-neox-20b", NFC, [WORDS]),
    "starcoder": ("bigcode/starcoder2-3b", None, [digits(True), WORDS]),
    "command-r": ("CohereForAI/c4ai-command-r-v01", NFC, [digits(True), WORDS]),
    "exaone": ("LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct", NFKC, [digits(True), WORDS]),
    "tekken": ("mistralai/Mistral-Nemo-Instruct-2407", None, [split(TEKKEN), BYTES]),
    "gpt-4o": ("Xenova/gpt-4o", None, [split(O200K, "Removed", True), BYTES]),
    "llama4": ("meta-llama/Llama-4-Scout-17B-16E-Instruct", None, [split(O200K), BYTES]),
    "minicpm5": ("openbmb/MiniCPM5-1B", None, [
        split(r"\p{N}{1,3}"), split(CL100K.replace("{1,3}", "+")), BYTES]),
    "deepseek-llm": ("deepseek-ai/deepseek-llm-7b-base", None, [
        split("[\r\n]"), split(DS_LETTERS), split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"), split(r"\s+$"),
        split("[一-龥ࠀ-一가-퟿]+"), digits(True), BYTES]),
    "deepseek-coder": ("deepseek-ai/deepseek-coder-6.7b-instruct", None, [
        split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), digits(True), BYTES]),
    "deepseek-v3": ("deepseek-ai/DeepSeek-V3", None, [
        split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DS_V3), BYTES]),
    "falcon": ("tiiuae/falcon-7b", None, [
        {"type": "Punctuation", "behavior": "Contiguous"}, WORDS, digits(False), split("[0-9][0-9][0-9]")]),
    "bloom": ("bigscience/bloom", None, [split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), BYTES]),
}

TEXTS = [
    "I'll say DON'T, we'Ve it's 'RE  you're",
    "3 33 333 3333 1234567 12,345.67 v2.5 ½ x² ٣٤٥ Ⅻ",
    "a\n\nb \n c\r\n\r\n  d\t\te \n",
    "fooBar_baz HTTPServer(a, b) -> {x: [1]}; // ok/\n\n",
    "日本語のテスト、한국어와 中文123字。ไทย हिन्दी",
    "🚀🦙 (ok) 😶\u200d🌫️!! <|im_end|> `code` $5+5=10~",
    "e\u0301a\u0308 Cửa Việt ﬁn Ⅳ ｆｕｌｌ　width\u00a0x \u2028y",
    "  leading and trailing   ",
    "м и мир Ünï ǅ ʔa dž \u0007bell",
]


def tokenizer(normalizer, steps):
    return Tokenizer.from_str(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }))


def pieces(normalizer, steps, text):
    library = tokenizer(normalizer, steps)
    text = library.normalizer.normalize_str(text) if normalizer else text
    return " ".join(piece for piece, _ in library.pre_tokenizer.pre_tokenize_str(text))


rows = {name: {"from": where, "pieces": [pieces(normalizer, steps, text) for text in TEXTS]}
        for name, (where, normalizer, steps) in PUBLISHED.items()}
print(json.dumps({"texts": TEXTS, "rows": rows}, ensure_ascii=False, indent=1))
