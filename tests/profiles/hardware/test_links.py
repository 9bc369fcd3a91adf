import pytest

from profiles.hardware.links import EMULATED, LINK_FACTS, LINKS, LinkFacts, link_named
from profiles.schema.errors import QuantityError
from profiles.schema.profile import Provenance
from runtime.cli import main


def test_every_link_goes_by_its_own_name() -> None:
    assert {name: link.name for name, link in LINKS.items()} == {name: name for name in LINKS}


def test_the_table_has_the_links_of_the_paper_and_its_successors() -> None:
    generations = ["pcie3-x16", "pcie4-x16", "pcie5-x16"]
    rates = [link_named(name).d2h_bytes_per_us for name in generations]
    assert rates == sorted(rates)
    # Three bricks of NVLink 2 against two.
    four, six = link_named("nvlink2-ac922-4gpu"), link_named("nvlink2-ac922-6gpu")
    assert four.d2h_bytes_per_us / six.d2h_bytes_per_us == pytest.approx(1.5, rel=0.02)
    for name in ("nvlink-c2c-gh200", "nvlink-c2c-gb200"):
        assert link_named(name).h2d_bytes_per_us > four.h2d_bytes_per_us


def test_every_link_but_the_emulated_one_says_what_it_rests_on() -> None:
    assert set(LINK_FACTS) == set(LINKS) - {EMULATED.name}
    for name, facts in LINK_FACTS.items():
        assert facts.link is LINKS[name]
        rates = (facts.link.d2h_bytes_per_us, facts.link.h2d_bytes_per_us)
        assert rates == (facts.d2h.bytes_per_us, facts.h2d.bytes_per_us)
        both = facts.both.bytes_per_us if facts.both else None
        assert facts.link.both_bytes_per_us == both
        assert all(figure.source for _, figure in facts.figures)


@pytest.mark.parametrize("facts", LINK_FACTS.values(), ids=LINK_FACTS)
def test_no_measurement_beats_theory(facts: LinkFacts) -> None:
    for figure in (facts.d2h, facts.h2d):
        assert 0.6 * facts.theory.bytes_per_us < figure.bytes_per_us < facts.theory.bytes_per_us
    if facts.both is not None:
        one_way = min(facts.d2h.bytes_per_us, facts.h2d.bytes_per_us)
        # Both ways at once move more than one way alone, and less than each way alone added up.
        assert one_way < facts.both.bytes_per_us
        assert facts.both.bytes_per_us < facts.d2h.bytes_per_us + facts.h2d.bytes_per_us
    if facts.sharing is not None:
        assert facts.sharing.gpus_per_memory >= facts.sharing.gpus_per_uplink >= 1


def test_the_gpus_of_one_power9_ask_for_more_than_its_memory_has() -> None:
    # Issue of the paper's machine: the next wall behind the link is the memory of the host.
    sharing = LINK_FACTS["nvlink2-ac922-4gpu"].sharing
    assert sharing is not None
    assert sharing.memory is not None
    each_way = link_named("nvlink2-ac922-4gpu").d2h_bytes_per_us
    assert 2 * each_way * sharing.gpus_per_memory > sharing.memory.bytes_per_us


@pytest.mark.usefixtures("wide_tables")
def test_links_are_printed_with_their_marks_and_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["links"]) == 0
    short = capsys.readouterr().out
    assert "45.90 GB/s*" in short
    assert "26.00 GB/s*" not in short
    assert "2 behind a switch, 4 to a socket" in short
    assert "blog.vllm.ai" not in short
    assert main(["links", "--sources"]) == 0
    long = " ".join(capsys.readouterr().out.split())
    assert long.startswith(" ".join(short.split()[:20]))
    for facts in LINK_FACTS.values():
        for _, figure in facts.figures:
            assert figure.source in long


def test_nothing_is_unknown_and_what_is_assumed_says_so() -> None:
    """Nobody published these; the module says what each is assumed from."""
    named = {
        (name, what): figure for name, facts in LINK_FACTS.items() for what, figure in facts.figures
    }
    for facts in LINK_FACTS.values():
        assert facts.both is not None
        assert facts.sharing is not None
    assumed = {key for key, figure in named.items() if "assumed" in figure.source}
    assert assumed == {
        ("pcie5-x16", "memory of a socket"),
        ("nvlink2-ac922-4gpu", "to the host"),
        ("nvlink2-ac922-6gpu", "both ways together"),
        ("nvlink-c2c-gb200", "in theory, each way"),
    }
    for key in assumed:
        assert named[key].source.startswith("not published; assumed")
        assert not named[key].verified


def test_directions_contend_alike_on_machines_alike() -> None:
    """Both together over each alone: what the four-GPU AC922 measured is assumed of the other."""

    def kept(name: str) -> float:
        link = link_named(name)
        assert link.both_bytes_per_us is not None
        return link.both_bytes_per_us / (link.d2h_bytes_per_us + link.h2d_bytes_per_us)

    assert kept("nvlink2-ac922-6gpu") == pytest.approx(kept("nvlink2-ac922-4gpu"), rel=0.02)
    # GiB as the source has them: 20.5 both ways, 11.5 one way.
    assert kept("pcie3-x16") == pytest.approx(20.5 / (2 * 11.5), rel=0.03)


def test_no_figure_claims_to_be_measured_here() -> None:
    assert {link.provenance for link in LINKS.values()} == {Provenance.NOMINAL}


def test_the_emulated_link_moves_a_gigabyte_a_second_each_way() -> None:
    assert link_named("cpu-emulated") is EMULATED
    assert (EMULATED.d2h_bytes_per_us, EMULATED.h2d_bytes_per_us) == (1000.0, 1000.0)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("pcie4-x17", "Did you mean pcie4-x16"),
        ("PCIE3-X16", "Did you mean pcie3-x16"),
        ("carrier pigeon", "Links: cpu-emulated, pcie3-x16"),
    ],
)
def test_an_unknown_link_says_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(QuantityError) as refused:
        link_named(name)
    assert f"there is no link {name!r}. {hint}" in str(refused.value)
