"""How much dearer a policy is than one that knows the load and the machine's speed beforehand."""
