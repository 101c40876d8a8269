"""A running service: does it answer, and what does it say of what it depends on."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from ipa.model.findings import Finding, fail, ok, warn


def service_findings(url: str, timeout_s: float) -> Iterator[Finding]:
    """What `/readyz?verbose` says, one finding a check of the service's own."""
    name = "service"
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz?verbose", timeout=timeout_s, trust_env=False)
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        yield fail(name, f"{url} does not answer as ipa: {error or type(error).__name__}", "ipa serve")
        return
    if not answer.is_success:
        problems = "; ".join(str(each.get("message", "")) for each in body.get("errors", []))
        yield fail(
            name, f"{url} is not ready: {problems or body.get('detail', answer.status_code)}", "ipa serve"
        )
        return
    yield ok(name, f"{url} is ready{', but degraded' if body.get('degraded') else ''}")
    for check in body.get("checks", []):
        title, detail = f"service: {check['name']}", check.get("detail") or "fine"
        yield ok(title, detail) if check["ok"] else warn(title, detail, f"ipa status --at {url}")
