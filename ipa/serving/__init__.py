"""Parts of every serving process: a bounded HTTP server (uvicorn) and a log that never blocks it."""
