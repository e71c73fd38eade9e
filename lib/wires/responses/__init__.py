"""OpenAI's Responses for clients: passed through, or rendered over another API."""
