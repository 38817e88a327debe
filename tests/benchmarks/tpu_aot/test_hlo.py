"""Counts of a program's text: loops, exchanges, memory traffic."""

import pytest

from benchmarks.aot.counts import Collective, collectives_of, summed_by_kind
from benchmarks.aot.hlo import Program
from benchmarks.aot.traffic import memory_traffic_of

# A loop of 12 turns with an exchange of 2048 bytes in bfloat16 in it; one that runs beside other
# work, in three pieces with one channel; counts over all four devices; one within a single device.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%starts (param_0: bf16[8,64]) -> (bf16[8,64], bf16[16,64]) {
  %param_0 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[16,64]{1,0} all-gather(%param_0), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, dimensions={0}
  ROOT %custom-call.1 = (bf16[8,64], bf16[16,64]) custom-call(%param_0), custom_call_target="Start"
}

%goes_on (param_1: bf16[8,64]) -> bf16[16,64] {
  %param_1 = bf16[8,64]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[16,64]{1,0} all-gather(%param_1), channel_id=7, \
replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, dimensions={0}
}

%takes_a_layer (param_2: f32[12,256], param_3: s32[]) -> f32[1,256] {
  %param_2 = f32[12,256]{1,0} parameter(0)
  %param_3 = s32[] parameter(1)
  ROOT %dynamic-slice.1 = f32[1,256]{1,0} dynamic-slice(%param_2, %param_3), \
dynamic_slice_sizes={1,256}
}

%body (carry: (s32[], f32[12,256], bf16[8,64])) -> (s32[], f32[12,256], bf16[8,64]) {
  %carry = (s32[], f32[12,256]{1,0}, bf16[8,64]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%carry), index=0
  %stack = f32[12,256]{1,0} get-tuple-element(%carry), index=1
  %rows = bf16[8,64]{1,0} get-tuple-element(%carry), index=2
  %layer = f32[1,256]{1,0:T(8,128)S(1)} fusion(%stack, %counter), kind=kLoop, calls=%takes_a_layer
  %all-reduce.1 = bf16[16,64]{1,0:T(8,128)(2,1)S(1)} all-reduce(%layer), channel_id=1, \
replica_groups={{0,1},{2,3}}, to_apply=%add
  %piece = bf16[16,64]{1,0:S(1)} fusion(%rows), kind=kCustom, calls=%goes_on
  ROOT %next = (s32[], f32[12,256]{1,0}, bf16[8,64]{1,0}) tuple(%counter, %stack, %rows)
}

%condition (carry.1: (s32[], f32[12,256], bf16[8,64])) -> pred[] {
  %carry.1 = (s32[], f32[12,256]{1,0}, bf16[8,64]{1,0}) parameter(0)
  %bound = s32[]{:T(128)} constant(12)
  %counter.1 = s32[] get-tuple-element(%carry.1), index=0
  ROOT %lt = pred[] compare(%counter.1, %bound), direction=LT
}

ENTRY %main (stack.1: f32[12,256], rows.1: bf16[8,64]) -> s32[] {
  %stack.1 = f32[12,256]{1,0} parameter(0)
  %rows.1 = bf16[8,64]{1,0} parameter(1)
  %start = (bf16[8,64]{1,0:S(1)}, bf16[16,64]{1,0:S(1)}) fusion(%rows.1), kind=kCustom, \
calls=%starts
  %zero = s32[] constant(0)
  %tuple = (s32[], f32[12,256]{1,0}, bf16[8,64]{1,0}) tuple(%zero, %stack.1, %rows.1)
  %while = (s32[], f32[12,256]{1,0}, bf16[8,64]{1,0}) while(%tuple), \
condition=%condition, body=%body
  %count = s32[] get-tuple-element(%while), index=0
  %alone = s32[] all-reduce(%count), channel_id=3, replica_groups=[4,1]<=[4], to_apply=%add
  ROOT %all = s32[] all-reduce(%alone), channel_id=2, replica_groups=[1,4]<=[4], to_apply=%add
}
"""


def test_exchanges_are_counted_as_often_as_they_run():
    found = collectives_of(Program.parse(PROGRAM))
    assert sorted(found, key=lambda one: (one.kind, one.size)) == [
        Collective("all-gather", size=2048, group=2, times=1, in_loop=False),
        Collective("all-reduce", size=4, group=4, times=1, in_loop=False),
        Collective("all-reduce", size=2048, group=2, times=12, in_loop=True),
    ]


def test_exchanges_are_added_up_by_kind():
    sums = summed_by_kind(collectives_of(Program.parse(PROGRAM)))
    assert sums["all-gather"] == {
        "number": 1,
        "number_in_loops": 0,
        "bytes": 2048,
        "bytes_sent": 1024,
    }
    # In a ring each device sends 2 (n - 1) / n of what is summed.
    assert sums["all-reduce"]["number"] == 13
    assert sums["all-reduce"]["number_in_loops"] == 12
    assert sums["all-reduce"]["bytes_sent"] == 12 * 2048 + 4 * 1.5


def test_a_loop_reads_a_layer_in_each_turn_and_not_all_of_them():
    # Elsewhere than in memory is what S(1) marks. In each turn: a layer, and the rows twice; the
    # start reads the rows, the two exchanges of a count read and write 4 bytes each, and the start
    # and the pieces write nothing to memory.
    rows, layer = 8 * 64 * 2, 256 * 4
    counter = 4
    expected = 12 * (layer + counter + rows) + rows + 2 * (4 + 4)
    # The result of an instruction in a loop that is elsewhere is read from there.
    assert memory_traffic_of(Program.parse(PROGRAM)) == {"model": expected}


SLICES = """\
HloModule jit_slices, is_scheduled=true

ENTRY %main (table: s8[4096], place: s32[]) -> s8[64] {
  %table = s8[4096]{0:T(1024)(128)(4,1)} parameter(0)
  %place = s32[]{:T(128)S(6)} parameter(1)
  %begun = ((s8[4096]{0:T(1024)}), s8[1024]{0:T(1024)S(1)}, s32[]{:S(2)}) slice-start(%table), \
slice={[0:1024]}
  %near = s8[1024]{0:T(1024)S(1)} slice-done(%begun)
  %kept = s8[128]{0} slice(%near), slice={[0:128]}
  ROOT %part = s8[64]{0} dynamic-slice(%table, %place), dynamic_slice_sizes={64}
}
"""


def test_a_slice_moves_itself_and_not_what_it_is_of():
    # Read into the vector unit; written from there; read and written.
    assert memory_traffic_of(Program.parse(SLICES)) == {"model": 1024 + 128 + 2 * 64}


SCATTERED = """\
HloModule jit_scattered, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (given_0: f32[64], given_1: f32[32]) -> (f32[16], f32[8]) {
  %given_0 = f32[64]{0:S(1)} parameter(0)
  %given_1 = f32[32]{0:S(1)} parameter(1)
  %all-reduce.1 = (f32[64]{0}, f32[32]{0}) all-reduce(%given_0, %given_1), channel_id=1, \
replica_groups={{0,1,2,3}}, to_apply=%add
  %first = f32[64]{0} get-tuple-element(%all-reduce.1), index=0
  %second = f32[32]{0} get-tuple-element(%all-reduce.1), index=1
  %device = u32[] partition-id()
  %part_0 = f32[16]{0} dynamic-slice(%first, %device), dynamic_slice_sizes={16}
  %part_1 = f32[8]{0} dynamic-slice(%second, %device), dynamic_slice_sizes={8}
  ROOT %parts = (f32[16]{0}, f32[8]{0}) tuple(%part_0, %part_1)
}

ENTRY %main (sum_0: f32[64], sum_1: f32[32]) -> (f32[16], f32[8]) {
  %sum_0 = f32[64]{0:S(1)} parameter(0)
  %sum_1 = f32[32]{0:S(1)} parameter(1)
  ROOT %scattered = (f32[16]{0}, f32[8]{0}) fusion(%sum_0, %sum_1), kind=kCustom, \
calls=%all-reduce-scatter.1, metadata={op_name="jit(add)/vmap(clipped_sums)/dot_general"}
}
"""


def test_a_sum_of_which_each_device_takes_a_part_is_scattered():
    program = Program.parse(SCATTERED)
    scattered = Collective("reduce-scatter", size=96, group=4, times=1, in_loop=False)
    assert collectives_of(program) == [scattered]
    assert memory_traffic_of(program) == {"clipped_sums": 96}
    # Not where one of the sums is used as a whole.
    whole = SCATTERED.replace("%part_1 = f32[8]{0} dynamic-slice(", "%part_1 = f32[32]{0} negate(")
    (reduced,) = collectives_of(Program.parse(whole))
    assert (reduced.kind, reduced.size) == ("all-reduce", 4 * 96)


def test_a_loop_without_a_bound_is_named():
    program = Program.parse(PROGRAM.replace("direction=LT", "direction=NE"))
    assert program.unknown_loops() == ("while",)
    assert {one.times for one in collectives_of(program)} == {1}
    assert not Program.parse(PROGRAM).unknown_loops()


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="must have a computation that says ENTRY"):
        Program.parse("HloModule nothing")


def test_reduce_scatter_and_permute_send_what_a_ring_sends():
    scattered = Collective("reduce-scatter", size=100, group=4, times=1, in_loop=False)
    moved = Collective("collective-permute", size=100, group=2, times=3, in_loop=False)
    assert (scattered.sent, moved.sent) == (300, 300)
