"""The world against a dictionary: whatever is published, refused by the disk, projected or restarted.

No journal and no loop: durable records are a list, the region is a real one. At every moment region and
overlay together must show what the naive rules make of the durable events, and every record must name its
entity's previous one.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from appliance.store.journal_format import split_records
from appliance.store.layouts import WORLD_REGION
from appliance.store.region import Environment
from appliance.store.region_admit import WORLD
from appliance.world import INTERNAL, WorldOptions
from appliance.world.events import decode_batch
from appliance.world.flight import Flight
from appliance.world.image import ImageHead, image, parse
from appliance.world.intake import Intake
from appliance.world.listing import Listing
from appliance.world.records import unpack
from appliance.world.state import WorldState
from appliance.world.view import REGION, WorldView
from tests.world_kit import Model, batch, event, shown

IDS = st.sampled_from(["a/1", "a/2", "b/1", "é", "x" * 390, "x" * 420, "x" * 420 + "y", "ß/" + "ü" * 300])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3), st.lists(st.integers()))
PROPERTIES = st.one_of(
    st.dictionaries(st.sampled_from("pqr"), VALUES, max_size=3),
    st.just({"__deleted__": True, "p": 1}),
    st.just({"__deleted__": "true"}),
)


@st.composite
def events(draw):
    one = event(draw(st.one_of(IDS, IDS, IDS, st.just(7))))
    one["payload"]["properties"] = draw(PROPERTIES)
    if draw(st.booleans()):
        one["eventId"] = draw(st.sampled_from([f"id{number}" for number in range(12)]))
    return one


class WorldMachine(RuleBasedStateMachine):
    """``durable`` has one record per number; ``flights`` are on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="fluxbee-model-"))
        self.durable: list[tuple[bytes, int]] = []
        self.flights: list[Flight] = []
        self.model = Model()
        self.previous: dict[str, int] = {}
        self.known: dict[str, int] = {}
        self.image: tuple[int, list[bytes]] | None = None
        self.env: Environment | None = None

    def teardown(self) -> None:
        if self.env is not None:
            self.env.close()
        shutil.rmtree(self.home)

    @initialize(window=st.sampled_from([0, 5, 1000]))
    def begin(self, window: int) -> None:
        self.options = WorldOptions(dedup_events=window)
        self.open()

    def open(self) -> None:
        self.env = Environment(WORLD, self.home, (WORLD_REGION,))
        self.view = WorldView(self.env, self.options.entity_bytes)
        self.state = WorldState(self.options)
        self.state.heads._generation = 3
        if REGION in self.env.opened.rebuild:
            self.view.reset("model")
            upto = self.load_image()
            self.view.finish(upto)
        self.state.entities = self.view.meta.entities
        applied = self.state.overlay.front_seq = self.env.applied_seq(REGION)
        for seq in range(max(len(self.durable) - self.options.dedup_events, 0) + 1, applied + 1):
            self.state.remember(seq, self.durable[seq - 1][0])
        with self.view.rows() as rows:
            for seq in range(applied + 1, len(self.durable) + 1):
                self.state.replay(seq, self.durable[seq - 1][0], rows)
        self.intake = Intake(self.state, self.view)
        self.slices = None

    def load_image(self) -> int:
        if self.image is None:
            return 0
        head, rows = parse(self.image[1])
        assert head is not None
        assert head.seq == self.image[0]
        for start in range(0, len(rows), 2):
            self.view.load(rows[start : start + 2])
        return head.seq

    # -- use ---------------------------------------------------------------------------------------------

    @rule(made=st.lists(events(), min_size=1, max_size=5))
    def publish(self, made: list[dict[str, object]]) -> None:
        first = (self.flights[-1].last if self.flights else len(self.durable)) + 1
        flight = self.intake.events(decode_batch(batch(*made)), INTERNAL, first, 1000 + first, 0.0)
        assert not flight.problems
        assert len(flight.results) == len(made)
        assert flight.count == len(made) - len(flight.duplicates)
        if flight.count:
            self.flights.append(flight)

    @precondition(lambda self: self.flights)
    @rule()
    def sync(self) -> None:
        flight = self.flights.pop(0)
        for seq, record in enumerate(split_records(flight.body, flight.count), flight.first):
            self.note(seq, record, flight.at_ms)
        self.state.apply(flight)
        self.state.heads.age(flight.last, self.state.overlay.front_seq)

    def note(self, seq: int, record: bytes, at_ms: int) -> None:
        head, text = unpack(record)
        stored = decode_batch(b'{"events":[%b]}' % text)[0]
        one = stored.payload["entity_id"]
        if isinstance(one, str):
            assert head.previous == self.previous.get(one, 0)
            self.previous[one] = seq
        last = self.known.get(stored.eventId)
        assert last is None or seq - last > self.options.dedup_events
        self.known[stored.eventId] = seq
        assert seq == len(self.durable) + 1
        self.durable.append((record, at_ms))
        self.model.apply(seq, stored.payload)

    @precondition(lambda self: self.flights)
    @rule()
    def the_disk_fails(self) -> None:
        """Everything on its way is lost; publishers are told one after the other."""
        while self.flights:
            self.state.withdraw(self.flights.pop(0), self.flights)

    @precondition(lambda self: len(self.flights) > 1)
    @rule()
    def the_last_one_is_refused(self) -> None:
        self.state.withdraw(self.flights.pop(), self.flights)

    # -- projecting --------------------------------------------------------------------------------------

    @rule(slices=st.integers(1, 4), puts=st.integers(1, 3))
    def project_some(self, slices: int, puts: int) -> None:
        if self.state.overlay.swap():
            for _ in zip(range(slices), self.view.project(self.state.overlay, slice_puts=puts), strict=False):
                pass

    @rule()
    def settle(self) -> None:
        while self.state.overlay.swap():
            for _ in self.view.project(self.state.overlay):
                pass
        self.view.mark_applied(self.state.overlay.front_seq)
        assert self.env.applied_seq(REGION) == len(self.durable)
        assert self.state.overlay.size_bytes == 0

    @rule()
    def take_image(self) -> None:
        self.settle()
        head = ImageHead(seq=len(self.durable), config=self.state.config, namespaces=[])
        with self.env.read() as txn:
            self.image = (head.seq, list(image(txn, head)))

    # -- restarting --------------------------------------------------------------------------------------

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """What is not durable is gone; the region is as far as it came."""
        self.flights.clear()
        assert self.env is not None
        self.env.close()
        if not clean:
            for path in self.home.iterdir():
                path.unlink()
        self.open()

    # -- what must hold ----------------------------------------------------------------------------------

    @invariant()
    def it_shows_what_is_durable(self) -> None:
        if self.env is None:
            return
        expected = {one: (props, self.model.changed[one]) for one, props in self.model.entities.items()}
        with self.view.rows() as rows:
            for one in self.model.past:
                text = self.state.overlay.text(one, rows.text(one))
                assert bool(text) == (one in expected)
                if text:
                    assert shown([text]) == {one: expected[one]}
        assert self.state.entities == len(expected)
        found: list[tuple[str, bytes]] = []
        listing = Listing(self.view, self.state.overlay, "")
        while page := listing.rows(2):
            found += page
        assert {one: shown([text])[one] for one, text in found} == expected
        assert len(found) == len(expected)


WorldMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestWorldModel = WorldMachine.TestCase
