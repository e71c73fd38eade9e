"""Vercel's AI SDK: `useChat` with no server in between."""
