"""Real OCR in two stages: find the text lines of a page, then read each of them."""
