import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { packageFolder } from '../../lib/native/addon.js';

/** A case of csrc/emulation/selftest under one schedule: 'right', 'wrong' or 'fault: …', without its bug and with it. */
interface Outcome {
  name: string;
  right: string;
  broken: string;
}

/** The schedules that operations' tests run under, too. */
const schedules = [
  { order: 'forward', copies: 'late', seed: 1 },
  { order: 'reverse', copies: 'late', seed: 1 },
  { order: 'random', copies: 'random', seed: 1 },
  { order: 'random', copies: 'late', seed: 2 },
  { order: 'random', copies: 'immediate', seed: 3 },
].flatMap((schedule) => [2, 3, 7].map((multiprocessors) => ({ ...schedule, multiprocessors })));

/** What a report must say where a bug is reported, not only seen in the result. */
const reports: Record<string, RegExp> = {
  divergent_barrier:
    /thread \(\d+, 0, 0\) of block .* is at barrier 0 at synchronization\.cu:\d+, while thread \d+ .* divergent/,
  thread_leaves_before_barrier: /deadlock: no thread can run; thread .* waits for a barrier at synchronization\.cu:\d+/,
  lane_missing_in_shuffle: /waits for __shfl_xor_sync|lanes of its warp wait for it|which has ended/,
  shared_write_one_beyond: /shared memory was written beyond the 128 bytes/,
  shared_write_far_beyond: /accesses 0x[0-9a-f]+, where no memory is/,
  global_read_far_beyond: /accesses 0x[0-9a-f]+, where no memory is/,
  global_write_one_beyond: /device memory was written beyond the end of an allocation of 128 bytes/,
  use_after_free: /accesses 0x[0-9a-f]+, where no memory is/,
  matrix_row_misaligned: /whose address is not a multiple of 16/,
  barrier_expects_too_many_bytes: /deadlock.* waits for a memory barrier at bulk_copies\.cu:\d+/,
  memory_barrier_that_copies_can_not_see: /onto a memory barrier that no fence_proxy_async has made visible/,
  box_is_not_waited_for: /a block ends while copies to its shared memory are in flight/,
  box_misaligned: /copies a box to shared address 1152 at .*tensor_copies\.cu:\d+/,
  tensor_map_of_rows_not_aligned: /no tensor map of 20 x 72 bf16 in rows of 76, in boxes of 16 rows/,
  wgmma_before_its_operands_are_there:
    /waited for wgmma of .*wgmma\.cu:\d+, whose operands .* changed while it was in flight/,
  stage_released_before_its_products_are_done: /whose operands in shared memory changed while it was in flight/,
  wgmma_without_fence: /issues wgmma at .*wgmma\.cu:\d+ without a wgmma_fence of its accumulator/,
  accumulators_written_after_fence: /on an accumulator that was written since its wgmma_fence/,
  accumulators_written_in_flight: /an accumulator was written while products that add to it were in flight/,
  wgmma_not_committed: /ends while products of its warpgroup are in flight/,
  operands_written_without_proxy_fence: /an operand that threads wrote, without a fence_proxy_async since/,
  warp_of_the_group_missing:
    /deadlock.* waits for the other warps of its warpgroup to issue their products at wgmma\.cu:\d+/,
  descriptors_of_lanes_disagree: /other descriptors or flags than the other lanes/,
  block_ends_while_its_store_is_in_flight: /ends while asynchronous copies that it issued are in flight/,
};

describe('the emulation of CUDA', () => {
  const program = join(packageFolder, 'build', 'Release', 'qwen2-emulation-selftest');
  const outcomes = new Map<string, Outcome[]>();

  before(function () {
    if (!existsSync(program)) this.skip();
    for (const { order, copies, seed, multiprocessors } of schedules) {
      const env = {
        ...process.env,
        QWEN2_EMULATION_ORDER: order,
        QWEN2_EMULATION_COPIES: copies,
        QWEN2_EMULATION_SEED: String(seed),
        QWEN2_EMULATION_MULTIPROCESSORS: String(multiprocessors),
      };
      const lines = execFileSync(program, { env, encoding: 'utf8' }).trim().split('\n');
      for (const line of lines) {
        const outcome: Outcome = JSON.parse(line);
        outcomes.set(outcome.name, [...(outcomes.get(outcome.name) ?? []), outcome]);
      }
    }
  });

  it('lets right kernels through, whatever the schedule', () => {
    assert.ok(outcomes.size >= 25, `${outcomes.size} cases`);
    for (const [name, found] of outcomes)
      for (const [i, { right }] of found.entries())
        assert.equal(right, 'right', `${name}, ${JSON.stringify(schedules[i])}`);
  });

  it('finds every planted bug', () => {
    for (const [name, found] of outcomes)
      assert.ok(
        found.some(({ broken }) => broken !== 'right'),
        `${name} passes under all schedules`,
      );
  });

  for (const [name, report] of Object.entries(reports))
    it(`says of ${name.replaceAll('_', ' ')} what is wrong and where`, () => {
      const messages = (outcomes.get(name) ?? []).map(({ broken }) => broken);
      assert.ok(
        messages.some((message) => report.test(message)),
        messages.join('\n'),
      );
    });
});
