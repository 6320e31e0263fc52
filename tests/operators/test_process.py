"""Keyed classes: values, timers, several inputs, failures; against a model that takes one row after the other."""

import heapq

from hypothesis import given, settings
from hypothesis import strategies as st

from operators import Keyed, Value
from streams.core.batch import Batch
from streams.core.time import FOREVER
from tests.operators.checks import Numbered, Task, check, cut, frame_of, same
from tests.operators.keyed_examples import LABELS, PAYMENTS, Expiring, Label, Payment, Risk, Seen, Story, TimedSeen


def story(rows, marks):
    """What Story must tell, and its dead letters: a timer fires before the first row whose watermark is above it."""
    count, due, timers, out, dead = {}, {}, set(), [], []

    def fire(before):
        while timers and min(timers)[0] < before:
            at, key = min(timers)
            timers.discard((at, key))
            card = key.decode()
            if at % 7 == 0:
                dead.append((str({"card": card, "timer": at}), f"op: KeyError: {at}"))
                continue
            out.append(("timer", card, at))
            if card not in count:
                count[card] = 0
            count[card] += 100
            if at % 2:
                timers.add((at + 8, key))
            else:
                del count[card]

    for i, (row, mark) in enumerate(zip(rows, marks, strict=True)):
        fire(mark)
        card = row["card"]
        if row["amount"] % 5 == 4:
            dead.append((f"record {i}", f"op: ValueError: bad {row['amount']}"))
            continue
        count[card] = count.get(card, 0) + 1
        out.append(("row", card, count[card]))
        if row["amount"] % 3 == 0 and card in due:
            timers.discard((due.pop(card), card.encode()))
        if row["amount"] % 2:
            due[card] = row["at"] + row["amount"] - 10
            timers.add((due[card], card.encode()))
    fire(FOREVER)
    return out, dead


def told(made):
    return [(r["what"], r["card"], r["number"]) for r in made.rows], sorted(made.dead)


def rows_of(count, cards="abé"):
    return [
        {"card": cards[i * 5 % len(cards)], "at": (i * 13) % 40 + i * 2 - 90, "amount": i * 11 % 31}
        for i in range(count)
    ]


def test_shared_checks_and_the_answer():
    rows = rows_of(150)
    frame = frame_of(PAYMENTS, rows, disorder=20)
    made = check(Story(), PAYMENTS, frame)
    out, dead = story(rows, frame["$watermark"].to_list())
    assert told(made) == (out, sorted(dead))
    assert any(what == "timer" for what, _, _ in out)
    assert len(dead) > 3


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"card": st.sampled_from("ab"), "at": st.integers(-30, 30), "amount": st.integers(0, 30)}
        ),
        max_size=25,
    ),
    st.integers(0, 30),
    st.integers(0, 3),
    st.data(),
)
def test_any_rows_any_cuts_any_commits_and_restarts(rows, disorder, cache, data):
    frame = left = frame_of(PAYMENTS, rows, disorder)
    task = Task(Story(), PAYMENTS, cache=cache)
    while left.height:
        take = data.draw(st.integers(1, left.height))
        task.give(*cut(left.head(take), take)[0])
        left = left.slice(take)
        match data.draw(st.sampled_from(["go on", "commit", "reopen"])):
            case "commit":
                task.commit()
            case "reopen":
                task.commit()
                task.open()
    task.give([], FOREVER)
    task.commit()
    out, dead = story(rows, frame["$watermark"].to_list())
    assert told(task.committed) == (out, sorted(dead))
    assert task.stores["timers"].data == {}


def test_hidden_columns_and_origins():
    made = []

    class Late(Keyed[Payment, TimedSeen]):
        def on_row(self, row, ctx):
            made.append((ctx.watermark, ctx.time))
            ctx.timer(row.at + 5)
            return [TimedSeen(row.amount, row.at + 1)]

        def on_timer(self, at, ctx):
            return TimedSeen(0, at)

    task = Task(Late(), PAYMENTS)
    frame = frame_of(PAYMENTS, [{"card": "a", "at": t, "amount": t} for t in (1, 20)], disorder=2)
    task.give([(0, frame)], 18)
    (out,) = task.context.made.frames
    assert out.select("when", "$time", "$watermark").rows() == [(2, 2, -1), (6, 6, 6), (21, 21, 18)]
    assert made == [(-1, 1), (18, 20)]
    task.give([], 100)
    assert task.context.made.frames[1].select("when", "$row").rows() == [(25, 0)]


def test_origins_tell_records_and_timers():
    class Late(Keyed[Payment, TimedSeen]):
        def on_row(self, row, ctx):
            ctx.timer(row.at + 5)
            yield TimedSeen(1, row.at)

        def on_timer(self, at, ctx):
            yield TimedSeen(2, at)

    task = Task(Late(), PAYMENTS)
    frame = frame_of(PAYMENTS, [{"card": "a", "at": t, "amount": t} for t in (1, 20)], first=40)
    batch = task.operator.process(Batch(frame, Numbered()))
    letters = batch.origin.letters(batch.frame["$row"].to_list())
    assert [(x.topic, x.offset, x.value) for x in letters] == [
        ("in", 40, b""), ("", -1, b'{"timer":6,"key":"a"}'), ("in", 41, b""),
    ]  # fmt: skip
    batch = task.operator.advance(50)
    assert batch.origin.letters([batch.frame["$row"][0]])[0].timestamp == 25


def expiring(rows):
    last, words, out = {}, {}, []
    for row in rows:
        card, at = row["card"], row["at"]
        if card in last and at >= last[card][1]:
            del last[card]
        if card in words and at >= words[card][1]:
            del words[card]
        have = words.get(card, (["none"], 0))[0]
        out.append((",".join(have), card, last.get(card, (-1,))[0] or -1))
        if row["amount"] % 3:
            last[card] = (at, at + 20)
        if row["amount"] % 4 == 1:
            words[card] = ([*have, str(row["amount"])][-3:], at + 35)
    return out


def test_values_expire_by_event_time_and_their_space_is_freed():
    rows = sorted(rows_of(150), key=lambda r: r["at"])
    made = check(Expiring(), PAYMENTS, rows)
    assert told(made)[0] == expiring(rows)
    task = Task(Expiring(), PAYMENTS)
    for release in cut(frame_of(PAYMENTS, rows), 9):
        task.give(*release)
        task.commit()
        assert len(task.stores["timers"].data) <= 2 * 3
    task.give([], 10_000)
    task.commit()
    assert task.stores["values"].data == {}
    assert task.stores["timers"].data == {}


def test_disorder_does_not_bring_expired_values_back_in_one_cut_but_not_another():
    check(Expiring(), PAYMENTS, rows_of(150), disorder=25)


def test_several_inputs_come_by_event_time_the_earlier_port_first():
    labels = [Label("ab"[i % 2], i * 3, i % 3 == 0) for i in range(40)]
    payments = [Payment("ab"[i % 2], (i * 7) % 12 + i * 2, i) for i in range(60)]
    frames = [frame_of(LABELS, labels), frame_of(PAYMENTS, payments, disorder=14)]
    made = check(Risk(), [LABELS, PAYMENTS], frames)
    frauds, timers, want = {}, [], []
    events = [(x.at, 0, x) for x in labels] + [(x.at, 1, x) for x in payments]
    for at, port, x in sorted(events, key=lambda e: e[:2]):  # stable
        while timers and timers[0][0] < at:
            due, card = heapq.heappop(timers)
            want.append(("timer", card, due))
        if port == 0:
            frauds[x.card] = frauds.get(x.card, 0) + x.fraud
            if (at + 6, x.card) not in timers:
                heapq.heappush(timers, (at + 6, x.card))
        else:
            want.append(("payment", x.card, frauds.get(x.card, 0)))
    want += [("timer", card, due) for due, card in sorted(timers)]
    assert told(made)[0] == want
    assert Risk().bind(LABELS, PAYMENTS).key == ("card",)


def test_late_rows_have_a_place_of_their_own_where_channels_meet():
    labels = [Label("ab"[i % 2], i * 3, i % 3 == 0) for i in range(40)]
    payments = [Payment("ab"[i % 2], (i * 7) % 40 + i * 2, i) for i in range(60)]
    check(Risk(), [LABELS, PAYMENTS], [frame_of(LABELS, labels), frame_of(PAYMENTS, payments, disorder=3)])


def test_two_branches_of_one_channel_come_by_record():
    frame = frame_of(PAYMENTS, rows_of(60), disorder=20)
    outs = []
    for size in (1, 7, 60):
        task = Task(Twins(), PAYMENTS, PAYMENTS)
        for ((_, piece),), mark in cut(frame, size):
            task.give([(0, piece), (1, piece.filter(piece["amount"] % 2 == 0))], mark, ONE)
        task.commit()
        outs.append(task.committed.summary())
    same(outs[0], outs[1], "7")
    same(outs[0], outs[2], "60")


class Origin:
    def letters(self, rows):
        raise NotImplementedError


ONE = Origin()


class Twins(Keyed):
    inputs = ("left", "right")
    returns = Seen
    count = Value(int, default=0)

    def on_left(self, row, ctx):
        self.count.set(self.count.get() + 1)
        ctx.timer(row.at + 9)

    def on_right(self, row, ctx):
        yield Seen("right", row.card, self.count.get())

    def on_timer(self, at, ctx):
        self.count.set(self.count.get() * 2 % 1000)


def test_outputs_that_do_not_fit_undo_the_row():
    class Wrong(Keyed[Payment, Seen]):
        n = Value(int, default=0)

        def on_row(self, row, ctx):
            self.n.set(self.n.get() + 1)
            ctx.timer(row.at)
            yield Seen("ok", row.card, self.n.get())
            if row.amount == 2:
                yield Seen("wrong", row.card, "two")
            if row.amount == 3:
                yield row

        def on_timer(self, at, ctx):
            yield Seen("timer", ctx.key, at)

    rows = [{"card": "a", "at": i, "amount": i} for i in range(6)]
    made = check(Wrong(), PAYMENTS, rows)
    assert [n for what, _, n in told(made)[0] if what == "ok"] == [1, 2, 3, 4]
    assert [n for what, _, n in told(made)[0] if what == "timer"] == [0, 1, 4, 5]
    assert made.dead == [
        ("record 2", "op: TypeError: number: expected int, got str 'two'"),
        ("record 3", "op: TypeError: expected Seen, got Payment Payment(card='a', at=3, amount=3)"),
    ]
