"""What a program written for the OpenAI API does, with the published client.

Usage: openai_chat.py BASE_URL. Ends with a failed assertion or with the word "done".
"""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=60)
messages = [{"role": "user", "content": "Tell me a tale."}]

models = client.models.list().data
assert len(models) == 1, models
model = models[0].id
assert client.models.retrieve(model).id == model

whole = client.chat.completions.create(model=model, messages=messages, temperature=0)
text = whole.choices[0].message.content
assert whole.choices[0].message.role == "assistant" and len(text) > 20, whole
assert whole.choices[0].finish_reason == "stop", whole
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, whole

stream = client.chat.completions.create(
    model=model, messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
assert "".join(deltas) == text, deltas
assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
usage = chunks[-1].usage
assert (usage.prompt_tokens, usage.completion_tokens) == (whole.usage.prompt_tokens, whole.usage.completion_tokens), usage
# The second time all of the prompt but its last token is there already.
assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1, usage

completion = client.completions.create(model=model, prompt="Once upon a time", temperature=0, max_tokens=20)
assert completion.choices[0].finish_reason == "length", completion
assert completion.usage.completion_tokens == 20, completion
pieces = client.completions.create(
    model=model, prompt="Once upon a time", temperature=0, max_tokens=20, stream=True
)
assert "".join(chunk.choices[0].text for chunk in pieces) == completion.choices[0].text


def raises(kind, **arguments):
    try:
        client.chat.completions.create(**{"model": model, "messages": messages, **arguments})
    except kind as error:
        assert error.body["message"], error.body
        return error
    raise AssertionError(f"{arguments} was accepted")


assert raises(openai.NotFoundError, model="gpt-4").code == "model_not_found"
assert raises(openai.BadRequestError, max_tokens=-1).param == "max_tokens"
assert raises(openai.BadRequestError, n=2).code == "unsupported_parameter"
raises(openai.BadRequestError, messages=[])

# Leaving a stream early is no error for either side.
with client.chat.completions.create(model=model, messages=messages, stream=True) as early:
    next(iter(early))
assert client.chat.completions.create(model=model, messages=messages, temperature=0).choices[0].message.content == text
print("done")
