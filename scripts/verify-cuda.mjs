// All that can be proven of the CUDA device without a GPU: kernels compile for every architecture without spills or
// warnings, and every test of an operation passes on the emulation under every schedule, with the same seeds each time.
//
//   npm run verify:cuda                  everything; about twenty minutes on two cores
//   npm run verify:cuda -- --emulation   without nvcc

import { spawnSync } from 'node:child_process';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const mocha = ['node_modules/mocha/bin/mocha.js', '--no-config', '--require', 'dist/test/support/setup.js'];

/** Which threads go first, when copies land, and how many blocks are resident. */
const schedules = [
  { order: 'forward', copies: 'late', seed: 1, multiprocessors: 3 },
  { order: 'reverse', copies: 'late', seed: 1, multiprocessors: 2 },
  { order: 'forward', copies: 'immediate', seed: 1, multiprocessors: 7 },
  ...['late', 'immediate', 'random'].flatMap((copies) =>
    [1, 2, 3].map((seed) => ({ order: 'random', copies, seed, multiprocessors: [2, 3, 7][seed - 1] })),
  ),
];

function run(args, env = {}) {
  return (
    spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env: { ...process.env, ...env } }).status === 0
  );
}

const failures = [];
if (!run(['scripts/gyp-cmake.mjs', '--emulated'])) process.exit(1);
if (!process.argv.includes('--emulation') && !run(['scripts/check-cuda.mjs', '--all']))
  failures.push('check-cuda --all');
for (const { order, copies, seed, multiprocessors } of schedules) {
  const title = `order ${order}, copies ${copies}, seed ${seed}, ${multiprocessors} multiprocessors`;
  console.log(`\n== ${title}`);
  const passed = run([...mocha, '--reporter', 'dot', '--timeout', '300000', 'dist/test/ops/*.test.js'], {
    QWEN2_TEST_DEVICES: 'cuda-emulated',
    QWEN2_EMULATION_ORDER: order,
    QWEN2_EMULATION_COPIES: copies,
    QWEN2_EMULATION_SEED: String(seed),
    QWEN2_EMULATION_MULTIPROCESSORS: String(multiprocessors),
  });
  if (!passed) failures.push(title);
}
for (const failure of failures) console.error(`failed: ${failure}`);
console.log(failures.length === 0 ? 'verify-cuda: all passed' : `verify-cuda: ${failures.length} failed`);
process.exitCode = failures.length === 0 ? 0 : 1;
