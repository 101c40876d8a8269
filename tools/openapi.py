"""Writes docs/reference/openapi.json anew from the code."""

import json
from pathlib import Path

from ipa.api.app import openapi_document

TARGET = Path(__file__).parent.parent / "docs" / "reference" / "openapi.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(openapi_document(), indent=1, ensure_ascii=False) + "\n")
