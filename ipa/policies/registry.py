"""The policies by name; imports no policy. Built-in ones are factories, most in `ipa.policies.table`."""

from __future__ import annotations

from ipa.plugins import Registry

# A policy's factory takes a `PolicyInputs` and returns the `Policy`.
POLICIES = Registry(
    "ipa.policies",
    "policy",
    {
        "ours": "ipa.policies.table:ours",
        "ours-frugal": "ipa.policies.table:ours_frugal",
        "ipa": "ipa.policies.table:ipa_paper",
        "ipa-artifact": "ipa.policies.table:ipa_artifact",
        "fa2-low": "ipa.policies.table:fa2_low",
        "fa2-high": "ipa.policies.table:fa2_high",
        "rim": "ipa.policies.table:rim_policy",
        "infadapter": "ipa.policies.table:infadapter",
        "ms+": "ipa.policies.table:ms_plus",
        "vpa+": "ipa.policies.table:vpa_plus",
        "hpa": "ipa.policies.table:hpa",
        "kpa": "ipa.policies.table:kpa",
        "static": "ipa.policies.table:static",
    },
)
