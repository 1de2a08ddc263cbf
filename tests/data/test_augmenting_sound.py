"""Sounds that an epoch hears differently: the same for the same seed, epoch and example, within their bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hfstrat.data.augmenting_sound import Draw, SoundAugmentation, amplified, cropped, noisy, padded, shifted

RATE = 16_000
SOUND = (0.3 * np.sin(np.arange(1, 4001) * 0.05)).astype(np.float32)
FEATURES = np.random.default_rng(0).normal(3, 2, (100, 40)).astype(np.float32)
ALL = SoundAugmentation(
    shift=0.2,
    gain=6,
    snr=(5, 20),
    time_masks=2,
    time_mask_frames=20,
    frequency_masks=2,
    frequency_mask_bins=8,
)
DRAWS = [Draw(seed, epoch, example) for seed in (0, 1) for epoch in (0, 1) for example in range(50)]


def changed(augmentation: SoundAugmentation, draw: Draw) -> bytes:
    return augmentation.heard(SOUND, draw).tobytes() + augmentation.masked(FEATURES, draw).tobytes()


def decibels(array: np.ndarray, other: np.ndarray) -> float:
    """Ratio of two powers."""
    return 10 * math.log10(np.mean(np.square(array, dtype=float)) / np.mean(np.square(other, dtype=float)))


def test_the_same_arguments_give_the_same_bytes_and_others_do_not() -> None:
    first = [changed(ALL, draw) for draw in DRAWS]
    assert first == [changed(ALL, draw) for draw in reversed(DRAWS)][::-1]
    assert len(set(first)) == len(DRAWS)


def test_what_is_drawn_stays_so_in_versions_to_come() -> None:
    # Philox gives these for ever; a run that goes on depends on it.
    draw = Draw(7, 3, 11)
    raw = [int(draw.stream("gain").bit_generator.random_raw()), int(draw.stream("noise").bit_generator.random_raw())]
    assert raw == [8047080434311518498, 15118814620573582938]


def test_nothing_is_changed_unless_it_is_asked_for() -> None:
    for draw in DRAWS[:20]:
        assert SoundAugmentation().heard(SOUND, draw) is SOUND
        assert SoundAugmentation().masked(FEATURES, draw) is FEATURES


def test_what_is_given_is_not_written_to() -> None:
    sound, features = SOUND.copy(), FEATURES.copy()
    sound.flags.writeable = features.flags.writeable = False
    for draw in DRAWS:
        heard, masked = ALL.heard(sound, draw), ALL.masked(features, draw)
        assert (heard.shape, heard.dtype) == (sound.shape, np.float32)
        assert (masked.shape, masked.dtype) == (features.shape, np.float32)
    assert np.array_equal(features, FEATURES)


def test_one_change_leaves_what_another_draws_as_it_is() -> None:
    masks = SoundAugmentation(time_masks=2, time_mask_frames=20, frequency_masks=2, frequency_mask_bins=8)
    one = SoundAugmentation(time_masks=1, time_mask_frames=20)
    for draw in DRAWS[:20]:
        assert np.array_equal(ALL.masked(FEATURES, draw), masks.masked(FEATURES, draw))
        hidden = one.masked(FEATURES, draw) != FEATURES
        assert (masks.masked(FEATURES, draw) != FEATURES)[hidden].all()
        alone = noisy(shifted(SOUND, 0.2, draw), (5, 20), draw)
        assert np.array_equal(SoundAugmentation(shift=0.2, snr=(5, 20)).heard(SOUND, draw), alone)


# --- crops --------------------------------------------------------------------------------------------------


def test_a_crop_is_a_part_of_the_sound_and_every_part_may_be_it() -> None:
    array = np.arange(10, dtype=np.float32)
    starts = set()
    for draw in DRAWS:
        part = cropped(array, 7, draw)
        assert np.array_equal(part, np.arange(part[0], part[0] + 7))
        starts.add(int(part[0]))
    assert starts == {0, 1, 2, 3}


def test_what_is_evaluated_is_the_middle() -> None:
    assert cropped(np.arange(10), 6, None).tolist() == [2, 3, 4, 5, 6, 7]
    assert cropped(np.arange(10), 5, None).tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("draw", [None, Draw(0, 0, 0)])
def test_a_shorter_sound_is_followed_by_zeros(draw: Draw | None) -> None:
    assert cropped(np.ones(3, np.float32), 5, draw).tolist() == [1, 1, 1, 0, 0]
    assert cropped(np.ones(3, np.float32), 5, draw).dtype == np.float32
    assert cropped(SOUND, len(SOUND), draw) is SOUND
    assert padded(SOUND, 10) is SOUND


# --- waveforms ----------------------------------------------------------------------------------------------


def test_a_shift_moves_all_by_one_step_and_fills_with_zeros() -> None:
    array = np.arange(1, 11, dtype=np.float32)
    steps = set()
    for draw in DRAWS:
        found = shifted(array, 0.25, draw)
        step = 10 - int(found[-1]) if found[-1] else -int(np.sum(found == 0))
        expected = [place - step if 1 <= place - step <= 10 else 0 for place in range(1, 11)]
        assert found.tolist() == expected
        steps.add(step)
    assert steps == {-2, -1, 0, 1, 2}


def test_a_gain_is_one_factor_within_its_bounds() -> None:
    gains = []
    for draw in DRAWS:
        found = amplified(SOUND, 6, draw)
        gains.append(decibels(found, SOUND))
        assert np.allclose(found, SOUND * 10 ** (gains[-1] / 20), atol=1e-6)
    assert -6 <= min(gains) < -5
    assert 5 < max(gains) <= 6


def test_what_would_be_cut_off_is_softer_instead() -> None:
    loud = (SOUND / np.abs(SOUND).max()).astype(np.float32)
    peaks = [float(np.abs(amplified(loud, 12, draw)).max()) for draw in DRAWS]
    assert max(peaks) == 1
    assert min(peaks) < 0.3
    for draw in DRAWS[:20]:
        found = amplified(loud, 12, draw)
        assert np.allclose(found, loud * np.abs(found).max(), atol=1e-6)  # the shape is kept
        assert np.abs(noisy(loud, (0, 0), draw)).max() <= 1


def test_noise_is_at_the_ratio_that_is_drawn() -> None:
    for draw in DRAWS[:20]:
        # The sum of two float32 is rounded to 2^-25 of full scale, which is 90 dB below this noise.
        assert decibels(SOUND, noisy(SOUND, (10, 10), draw) - SOUND) == pytest.approx(10, abs=1e-3)
    ratios = [decibels(SOUND, noisy(SOUND, (5, 20), draw) - SOUND) for draw in DRAWS]
    assert 5 - 1e-3 <= min(ratios) < 6
    assert 19 < max(ratios) <= 20 + 1e-3


def test_noise_is_white_and_differs_between_examples() -> None:
    one, other = (noisy(SOUND, (10, 10), draw) - SOUND for draw in DRAWS[:2])
    # Correlations of 4000 independent pairs have a standard deviation of 0.016.
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.08
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.08


def test_silence_gets_no_noise() -> None:
    silence = np.zeros(100, np.float32)
    assert noisy(silence, (10, 10), DRAWS[0]) is silence
    assert not ALL.heard(silence, DRAWS[0]).any()


# --- masks --------------------------------------------------------------------------------------------------


def runs(hidden: np.ndarray) -> list[int]:
    """Lengths of runs of what is true."""
    edges = np.flatnonzero(np.diff(hidden.astype(int), prepend=0, append=0))
    return (edges[1::2] - edges[::2]).tolist()


def test_time_masks_hide_whole_frames_up_to_their_width() -> None:
    widths = set()
    for draw in DRAWS:
        found = SoundAugmentation(time_masks=1, time_mask_frames=5).masked(FEATURES, draw)
        hidden = found != FEATURES
        assert np.array_equal(hidden.any(axis=1), hidden.all(axis=1))
        assert len(runs(hidden.all(axis=1))) <= 1
        widths.add(int(hidden.all(axis=1).sum()))
        assert np.allclose(found[hidden], FEATURES.mean())
    assert widths == {0, 1, 2, 3, 4, 5}


def test_frequency_masks_hide_whole_bins_up_to_their_width() -> None:
    widths, places = set(), set()
    for draw in DRAWS:
        hidden = SoundAugmentation(frequency_masks=1, frequency_mask_bins=3).masked(FEATURES, draw) != FEATURES
        assert np.array_equal(hidden.any(axis=0), hidden.all(axis=0))
        widths.add(int(hidden.all(axis=0).sum()))
        places |= set(np.flatnonzero(hidden.all(axis=0)).tolist())
    assert widths == {0, 1, 2, 3}
    assert {0, 39} <= places  # the first and the last bin as well


def test_many_masks_hide_more_than_one() -> None:
    many = SoundAugmentation(time_masks=10, time_mask_frames=5)
    counts = [len(runs((many.masked(FEATURES, draw) != FEATURES).all(axis=1))) for draw in DRAWS]
    assert max(counts) > 4
    assert max(counts) <= 10


def test_a_share_bounds_the_width_for_short_examples() -> None:
    bounded = SoundAugmentation(time_masks=1, time_mask_frames=1000, time_mask_share=0.1)
    widths = [int((bounded.masked(FEATURES, draw) != FEATURES).all(axis=1).sum()) for draw in DRAWS]
    assert max(widths) == 10
    whole = SoundAugmentation(time_masks=1, time_mask_frames=1000, frequency_masks=1, frequency_mask_bins=1000)
    assert max(int((whole.masked(FEATURES, draw) != FEATURES).sum()) for draw in DRAWS) == FEATURES.size


def test_padding_is_neither_hidden_nor_part_of_the_mean() -> None:
    features = np.concatenate([FEATURES, np.full((50, 40), 1000, np.float32)])
    for draw in DRAWS[:50]:
        found = ALL.masked(features, draw, frames=100)
        assert np.array_equal(found[:100], ALL.masked(FEATURES, draw))
        assert np.array_equal(found[100:], features[100:])
