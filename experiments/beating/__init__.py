"""Our policies against IPA's in the simulator: five pipelines, four loads, many seeds."""
