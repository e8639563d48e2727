"""Changes the fields of a configuration by their dotted names."""


def change(config, **fields):
    """Sets fields such as `data__dir` of a configuration, and returns it."""
    for name, value in fields.items():
        *groups, last = name.split("__")
        group = config
        for each in groups:
            group = getattr(group, each)
        setattr(group, last, value)
    return config
