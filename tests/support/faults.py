"""Ways of breaking one argument of a good call."""


def put(name, change):
    """The call with one argument replaced by a function of it."""
    return lambda inputs: inputs | {name: change(inputs.get(name))}


def put_entry(value):
    """The call with one entry of its table, at flat position 5, replaced."""

    def change(index):
        index = index.clone()
        index.view(-1)[5] = value
        return index

    return put("index", change)


def put_table(change_ptr, change_entry):
    """The call with its transposed table replaced."""
    return put("transposed", lambda t: (change_ptr(t[0]), change_entry(t[1])))


def same(t):
    """No change."""
    return t


def at(place, change):
    """The positional arguments with one replaced by a function of it."""
    return lambda arguments: [change(a) if i == place else a for i, a in enumerate(arguments)]


def with_value(place, value):
    """A change of one entry of a vector."""

    def change(vector):
        vector = vector.clone()
        vector[place] = value
        return vector

    return change


def table_faults(op, sources):
    """The faults that every neighbour table may have: name -> (change, exception, message)."""
    entry = op + r": index must lie in \[-1, " + str(sources) + r"\), got {} at flat position 5"
    faults = {
        "index of rank 1": (put("index", lambda t: t[0]), r"index must have shape \[M, [ST]\]"),
        "index of rank 3": (put("index", lambda t: t[None]), r"index must have shape \[M, [ST]\]"),
        "index int32": (put("index", lambda t: t.int()), "index must be int64, got int32"),
        "index of floats": (put("index", lambda t: t.float()), "index must be int64, got float32"),
        "index on another device": (
            put("index", lambda t: t.to("meta")),
            "index must be on the device of x",
        ),
        "table int32": (
            put_table(lambda p: p.int(), lambda e: e.int()),
            "t_ptr must be int64, got int32",
        ),
        "table of another mesh": (
            put_table(lambda p: p[[*range(len(p)), -1]], same),
            rf"t_ptr must have shape \[V\+1\] = \[{sources + 1}\], got \[{sources + 2}\]",
        ),
        "table with an entry too few": (
            put_table(same, lambda e: e[:-1]),
            r"t_entry must have shape \[M\*[ST]\]",
        ),
        "table out of range": (
            put_table(same, with_value(0, 2**40)),
            r"t_entry must lie in \[0, M\*[ST]",
        ),
    }
    for value in (sources, -2, 2**63 - 1, -(2**63)):
        faults[f"entry {value}"] = (put_entry(value), entry.format(value))
    return {name: (change, RuntimeError, message) for name, (change, message) in faults.items()}


def transposed_faults(op, ptr, entry, count):
    """Faults of the transposed table at two places of a compiled operator's arguments."""
    slots = rf"t_entry must lie in \[0, M\*[ST] = {count}\)"
    faults = {
        "t_ptr empty": (at(ptr, lambda p: p[:0]), r"t_ptr must have shape \[V\+1\], got \[0\]"),
        "t_ptr of rank 2": (at(ptr, lambda p: p[None]), r"t_ptr must have shape \[V\+1\]"),
        "t_ptr int32": (at(ptr, lambda p: p.int()), "t_ptr must be int64"),
        "t_ptr starts late": (at(ptr, with_value(0, 1)), "t_ptr must rise from 0"),
        "t_ptr falls": (at(ptr, with_value(4, count + 1)), "t_ptr must rise from 0"),
        "t_ptr beyond the end": (at(ptr, with_value(-1, count + 1)), rf"at most M.[ST] = {count}"),
        "t_entry int32": (at(entry, lambda e: e.int()), "t_entry must be int64"),
        "t_entry too short": (at(entry, lambda e: e[1:]), r"t_entry must have shape \[M\*[ST]\]"),
        "t_entry too large": (at(entry, with_value(2, count)), slots),
        "t_entry negative": (at(entry, with_value(2, -1)), slots),
    }
    return {f"x: {name}": (op, change, message) for name, (change, message) in faults.items()}
