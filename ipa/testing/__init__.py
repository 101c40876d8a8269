"""Contract suites for plug-ins: subclass one in your tests, name the plug-in, and run pytest.

    from ipa.testing import PolicyContract

    class TestAcme(PolicyContract):
        policy = "acme"

Each method that begins with `test_` is one promise. The suites import no pytest: they only assert. To see the
values of an assertion that fails, put `pytest.register_assert_rewrite("ipa.testing")` into a conftest.py.
"""

from ipa.testing.forecasters import ForecasterContract
from ipa.testing.policies import PolicyContract

__all__ = ["ForecasterContract", "PolicyContract"]
