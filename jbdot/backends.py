UNROLLED = 64
RULES = {}


def measured(rule):
    return None, ""
