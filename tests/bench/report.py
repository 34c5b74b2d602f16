# SPDX-License-Identifier: MIT
"""From rounds to ratios, verdicts and tables. Pure functions over the measured numbers.

results: {row key: [round, ...]}, round: {server name: numbers, or {"failed": sentence}}.
A ratio is only ever taken within one round, where the servers ran one right after the other.
"""

from statistics import median

import rows

QEMU = ("qemu-threads", "qemu-io_uring")


def spread(values):
    return {"min": min(values), "median": median(values), "max": max(values)} if values else None


def values(rounds, server, field):
    return [entry[server][field] for entry in rounds if field in entry.get(server, {})]


def ratios(rounds, subject, peer, field):
    pairs = [(entry.get(subject, {}).get(field), entry.get(peer, {}).get(field))
             for entry in rounds]
    return [ours / theirs for ours, theirs in pairs if ours is not None and theirs]


def _best(rounds, names, field="rate"):
    measured = [(median(values(rounds, name, field)), name) for name in names
                if values(rounds, name, field)]
    return max(measured)[1] if measured else None


def judge(row, rounds, subject):
    """[{against, field, target, peer, spread, met}] for each target, and each plain comparison."""
    out = []
    if row.kind in ("holes", "memory", "startup"):
        return _judge_absolute(row, rounds, subject)
    peers = sorted({name for entry in rounds for name in entry} - {subject})
    targets = row.targets
    wanted = [("nbdkit", "rate", targets.nbdkit, "nbdkit"),
              ("qemu-nbd", "rate", targets.qemu, _best(rounds, [n for n in QEMU if n != subject])),
              ("CPU", "cpu", targets.cpu, "nbdkit")]
    if row.format != "raw":
        wanted = [item for item in wanted if item[3] != "nbdkit"]
    if targets.raw:
        wanted.append(("raw CPU", "cpu", targets.raw, "hawserd-raw"))
    if targets.best:
        wanted.append(("best peer", "rate", targets.best, _best(rounds, peers)))
    for against, field, target, peer in wanted:
        found = spread(ratios(rounds, subject, peer, field)) if peer and peer != subject else None
        met = None
        if target and found:
            met = found["median"] <= target if field == "cpu" else found["median"] >= target
        out.append({"against": against, "field": field, "target": target, "peer": peer,
                    "ratio": found, "met": met})
    if targets.cores:
        out.append(_judge_cores(row, rounds, subject))
    if row.kind == "mix":
        out.append(_judge_waiting(rounds, subject))
    return out


def _judge_waiting(rounds, subject):
    """A hit that does not wait behind a miss: the middle request is far from the slow ones."""
    found = spread([entry[subject]["p50_us"] / entry[subject]["p99_us"] for entry in rounds
                    if "p50_us" in entry.get(subject, {})])
    return {"against": "p50/p99", "field": "waiting", "target": rows.WAITING_MAX,
            "peer": None, "ratio": found,
            "met": found["median"] <= rows.WAITING_MAX if found else None}


def _judge_cores(row, rounds, subject):
    found = spread(values(rounds, subject, "cores"))
    return {"against": "cores", "field": "cores", "target": row.targets.cores, "peer": None,
            "ratio": found, "met": found["median"] >= row.targets.cores if found else None}


def _absolute(what, target, found):
    return {"against": what, "field": "absolute", "target": target, "peer": None, "ratio": found,
            "met": found["median"] <= target if found else None}


def _judge_absolute(row, rounds, subject):
    if row.kind == "startup":
        return [_absolute("ms", rows.STARTUP_MS, spread(values(rounds, subject, "milliseconds")))]
    if row.kind == "holes":
        return [_absolute("sent", 1, spread(values(rounds, subject, "sent"))),
                _absolute("read", rows.HOLE_READ_TOLERANCE,
                          spread(values(rounds, subject, "read")))]
    # A mapped file counts in VmRSS, but is the page cache's: the limits are about our own memory.
    parts = [("idle MiB", "idle", "rss_mib", rows.MEMORY_IDLE_MIB),
             ("reads MiB", "busy_read", "anon_mib", rows.MEMORY_BUSY_MIB),
             ("writes MiB", "busy_write", "anon_mib", rows.MEMORY_BUSY_MIB)]
    return [_absolute(what, target, spread([part[field] for part in
                                            values(rounds, subject, name)]))
            for what, name, field, target in parts]


# ---- Tables ----

def _number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _spread_text(found):
    return "-".join(_number(found[name]) for name in ("min", "median", "max")) if found else "?"


def _cell(item):
    if item["ratio"] is None:
        return f"? ({item['target']:g})" if item["target"] else ""
    text = _spread_text(item["ratio"])
    if item["target"]:
        text += f" ({item['target']:g})" + ("" if item["met"] else " MISSED")
    return text


def _absolute_text(row, item):
    sign = "at most " if row.kind != "holes" else ""
    verdict = "" if item["met"] or item["ratio"] is None else " MISSED"
    return f"{item['against']} {_spread_text(item['ratio'])} ({sign}{item['target']:g}){verdict}"


def rate_text(row, numbers):
    if not numbers:
        return "failed"
    if row.kind in ("copy_out", "copy_in") or row.load.get("block-size", 0) >= 65536:
        return f"{median(n['mib_per_second'] for n in numbers):.0f} MiB/s"
    rate = median(n["rate"] for n in numbers)
    return f"{rate / 1000:.1f}k/s" if rate >= 10000 else f"{rate:.0f}/s"


def _table(lines):
    widths = [max(len(line[i]) for line in lines if i < len(line))
              for i in range(max(map(len, lines)))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
                     for line in lines)


def target_table(chosen, results, judged, subject):
    lines = [["work", subject, "against nbdkit", "against qemu-nbd", "server CPU against nbdkit",
              "other"]]
    for row in chosen:
        rounds = results.get(row.key, [])
        cells = {item["against"]: _cell(item) for item in judged.get(row.key, [])}
        if row.kind in ("holes", "memory", "startup"):
            text = "; ".join(_absolute_text(row, item) for item in judged.get(row.key, []))
            lines.append([row.title, text])
            continue
        numbers = [entry[subject] for entry in rounds if "rate" in entry.get(subject, {})]
        extra = [f"{name} {cells[name]}" for name in ("best peer", "p50/p99", "raw CPU", "cores")
                 if cells.get(name)]
        lines.append([row.title, rate_text(row, numbers), cells.get("nbdkit", ""),
                      cells.get("qemu-nbd", ""), cells.get("CPU", ""), ", ".join(extra)])
    wide = [line for line in lines if len(line) > 2]
    text = _table(wide)
    for title, what in [line for line in lines if len(line) == 2]:
        text += f"\n{title}: {what}"
    return text


def server_table(chosen, results, names):
    """Medians of each server, and in brackets its throughput and CPU relative to nbdkit, in rows
    of qcow2 to hawserd on the raw image."""
    lines = [["work (throughput and CPU against nbdkit)", *names]]
    for row in chosen:
        rounds = results.get(row.key, [])
        base = "nbdkit" if row.format == "raw" else "hawserd-raw"
        told = [name for name in names if any(name in entry for entry in rounds)]
        if row.kind in ("holes", "memory", "startup"):
            lines.append([row.title, *(_absolute_cell(row, rounds, name) if name in told else ""
                                       for name in names)])
            continue
        cells = []
        for name in names:
            if name not in told:
                cells.append("")
                continue
            numbers = [entry[name] for entry in rounds if "rate" in entry.get(name, {})]
            text = rate_text(row, numbers)
            pair = [ratios(rounds, name, base, field) for field in ("rate", "cpu")]
            if name != base and all(pair):
                text += " [" + ", c ".join(_number(median(part)) for part in pair) + "]"
            elif numbers and median(n["cpu"] for n in numbers):
                text += f" c {_cpu_text(row, numbers)}"
            cells.append(text)
        lines.append([row.title, *cells])
    return _table(lines)


def _cpu_text(row, numbers):
    """Server CPU: microseconds a request, or seconds a GiB for large work."""
    cpu = median(n["cpu"] for n in numbers)
    if row.kind in ("copy_out", "copy_in"):
        return f"{cpu * 1024:.2f} s/GiB"
    size = row.load.get("block-size", 0)
    return f"{cpu * (1 << 30) / size:.2f} s/GiB" if size >= 65536 else f"{cpu * 1e6:.1f} us"


def _absolute_cell(row, rounds, name):
    if row.kind == "startup":
        found = values(rounds, name, "milliseconds")
        return f"{median(found):.1f} ms" if found else "failed"
    if row.kind == "holes":
        sent, read = values(rounds, name, "sent"), values(rounds, name, "read")
        return f"sent {median(sent):.1f}, read {median(read):.1f}" if sent else "failed"
    parts = []
    for field in ("idle", "after", "busy_read", "busy_write"):
        found = [part["rss_mib"] for part in values(rounds, name, field)]
        parts.append(_number(median(found)) if found else "?")
    return "/".join(parts) + " MiB"


def summary(judged):
    verdicts = [item["met"] for items in judged.values() for item in items
                if item["met"] is not None]
    return f"{sum(verdicts)} of {len(verdicts)} targets met"
