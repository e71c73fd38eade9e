"""OpenAI's chat completions, which most upstreams speak."""
