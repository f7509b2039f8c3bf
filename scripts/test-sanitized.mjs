// The tests on an addon built with the address and undefined-behaviour sanitizers.
//
//   npm run test:sanitized                                    all tests
//   npm run test:sanitized -- dist/test/ops/*.test.js         some files
//   npm run test:sanitized -- --grep attention                mocha's own options
//   npm run test:sanitized -- --prove                         only: the sanitizers are at work
//
// With QWEN2_TEST_DEVICES=cuda-emulated, the CUDA kernels on the emulation: a misaligned vector load shows here.

import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const work = join(root, 'build/sanitized');

// The sanitizers' runtimes come first in the process, before Node's allocator is chosen. Node itself leaks at exit, and
// an allocation that is too large must fail as it does without them.
const environment = {
  ...process.env,
  QWEN2_ADDON: join(work, 'Release/qwen2.node'),
  LD_PRELOAD: ['libasan.so', 'libubsan.so'].map(runtime).join(' '),
  ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1:abort_on_error=0:exitcode=97',
  UBSAN_OPTIONS: 'print_stacktrace=1:halt_on_error=1:exitcode=97',
};

function run(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error) throw result.error;
  return result;
}

function runtime(name) {
  const { stdout } = run('gcc', [`-print-file-name=${name}`], { stdio: 'pipe', encoding: 'utf8' });
  return stdout.trim();
}

/**
 * Sanitizers that catch nothing would pass every test, so a kernel of each device and SIMD level is made to write one
 * element beyond its tensor.
 */
function prove() {
  const program = join(work, 'out_of_bounds');
  const flags = ['-std=c++20', '-fsanitize=address,undefined', '-Icsrc', '-o', program];
  const sources = ['test/native/out_of_bounds.cpp', join(work, 'libqwen2_core.a'), '-lpthread'];
  if (run('g++', [...flags, ...sources]).status !== 0) process.exit(1);
  const proof = (device, level, excess) => {
    const env = { ...environment, LD_PRELOAD: '' };
    const { status, stderr } = run(program, [device, level, excess], { env, stdio: 'pipe', encoding: 'utf8' });
    return { status, caught: /AddressSanitizer: heap-buffer-overflow[\s\S]*WRITE of size/.test(stderr), stderr };
  };
  for (const [device, level] of [['reference', ''], ...supportedLevels().map((level) => ['cpu', level])]) {
    const right = proof(device, level, '0');
    const wrong = proof(device, level, '1');
    if (right.status === 0 && wrong.status === 97 && wrong.caught) continue;
    console.error(right.stderr, wrong.stderr);
    console.error(`${device} ${level}: a write beyond a tensor went unnoticed, or a right one was reported`);
    process.exit(1);
  }
  console.log('A write beyond a tensor is caught on every device and SIMD level.');
}

function supportedLevels() {
  const program = 'console.log(require(process.env.QWEN2_ADDON).cpuLevels().join())';
  const { stdout } = run(process.execPath, ['-e', program], { env: environment, stdio: 'pipe', encoding: 'utf8' });
  return stdout.trim().split(',');
}

/** Runs mocha with the arguments given, on all test files unless some are named. */
function test(chosen) {
  const some = chosen.some((argument) => argument.endsWith('.js'));
  const config = some ? ['--no-config', '--require', 'dist/test/support/setup.js'] : [];
  const mocha = ['node_modules/mocha/bin/mocha.js', ...config, '--timeout', '600000', ...chosen];
  process.exit(run(process.execPath, mocha, { env: environment }).status ?? 1);
}

const emulated = process.env.QWEN2_TEST_DEVICES?.includes('emulated') ? ['--emulated'] : [];
const built = run(process.execPath, ['scripts/gyp-cmake.mjs', ...emulated], {
  env: { ...process.env, QWEN2_SANITIZE: '1' },
});
if (built.status !== 0) process.exit(built.status ?? 1);
prove();
const chosen = process.argv.slice(2);
if (!chosen.includes('--prove')) test(chosen);
