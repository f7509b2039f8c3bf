// What run.sh runs. Every step's outcome is written when it is there, so that results of what ran remain if the rest is cut
// off: results.json, and the log of all steps.

import { spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const folder = process.argv[2];
const resultsFile = join(folder, 'results.json');
const logFile = join(folder, 'log.txt');
const deadline = Date.now() + 530_000;

const results = {
  started: new Date().toISOString(),
  facts: {},
  tests: {},
  sanitizer: {},
  operations: undefined,
  models: [],
};

function save() {
  writeFileSync(resultsFile, `${JSON.stringify(results, undefined, 1)}\n`);
}

/** Runs a command for so many seconds at most, and never beyond the deadline; what it prints goes to the log too. */
function run(title, command, args, seconds, env = {}) {
  const timeout = Math.min(1000 * seconds, deadline - Date.now());
  if (timeout < 1000) return { status: null, stdout: '', skipped: true };
  const started = Date.now();
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd: here,
    env: { ...process.env, ...env },
    encoding: 'utf8',
    timeout,
    maxBuffer: 1 << 28,
  });
  const took = ((Date.now() - started) / 1000).toFixed(1);
  console.log(`${title}: ${status === 0 ? 'done' : `exit status ${status}`} in ${took} s`);
  appendFileSync(logFile, `\n===== ${title}: ${status}, ${took} s\n${stdout ?? ''}${stderr ?? ''}`);
  return { status, stdout: stdout ?? '', seconds: Number(took) };
}

function facts() {
  const query = 'name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.mem,power.limit';
  results.facts.gpu = run('GPU', 'nvidia-smi', [`--query-gpu=${query}`, '--format=csv'], 20).stdout.trim();
  results.facts.devices = run('devices', process.execPath, ['dist/lib/cli/main.js', 'info'], 60).stdout.trim();
  save();
}

/** Every instruction of csrc/cuda/ptx.h and ptx_sm90.h: first, because all else builds on them. */
function instructions() {
  const { status, stdout } = run('instructions', 'build/Release/qwen2-cuda-selftest', [], 30);
  const cases = stdout
    .trim()
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  results.instructions = {
    status,
    right: cases.filter(({ right }) => right === 'right').length,
    absent: cases.filter(({ right }) => right === 'absent').length,
    wrong: cases.filter(({ right }) => right !== 'right' && right !== 'absent'),
  };
  save();
}

/** Mocha's own report of some test files, on the device `cuda`. */
function test(name, files, seconds, grep) {
  const report = join(folder, 'mocha.json');
  const selection = grep === undefined ? [] : ['--grep', grep];
  const mocha = ['node_modules/mocha/bin/mocha.js', '--no-config', '--require', 'dist/test/support/setup.js'];
  const reporter = ['--reporter', 'json', '--reporter-option', `output=${report}`, '--timeout', '120000'];
  const { status, skipped } = run(
    `tests: ${name}`,
    process.execPath,
    [...mocha, ...reporter, ...selection, ...files],
    seconds,
    {
      QWEN2_TEST_DEVICES: 'cuda',
    },
  );
  results.tests[name] = { status, skipped };
  if (existsSync(report)) {
    const { stats, failures } = JSON.parse(readFileSync(report, 'utf8'));
    const short = failures.map(({ fullTitle, err }) => ({ fullTitle, message: String(err.message).slice(0, 600) }));
    Object.assign(results.tests[name], { passes: stats.passes, pending: stats.pending, failures: short.slice(0, 60) });
    writeFileSync(report, '');
  }
  save();
}

/** compute-sanitizer, where it is: one operation test file under each of two tools. */
function sanitize() {
  if (run('compute-sanitizer', 'compute-sanitizer', ['--version'], 10).status !== 0) {
    results.sanitizer = 'compute-sanitizer is not on this machine';
    return save();
  }
  for (const tool of ['memcheck', 'racecheck']) {
    const mocha = ['node_modules/mocha/bin/mocha.js', '--no-config', '--require', 'dist/test/support/setup.js'];
    const files = ['dist/test/ops/rms_norm.test.js', 'dist/test/ops/attention.test.js', 'dist/test/ops/linear.test.js'];
    const args = ['--tool', tool, '--error-exitcode', '9', process.execPath, ...mocha, '--timeout', '600000', ...files];
    const { status, stdout } = run(tool, 'compute-sanitizer', args, 60, { QWEN2_TEST_DEVICES: 'cuda' });
    results.sanitizer[tool] = { status, summary: stdout.split('\n').filter((line) => line.includes('ERROR SUMMARY')) };
    save();
  }
}

function operations() {
  const output = join(folder, 'operations.json');
  run('operations', process.execPath, ['dist/bench/ops.js', '--device', 'cuda', '--output', output], 150);
  if (existsSync(output)) results.operations = JSON.parse(readFileSync(output, 'utf8'));
  save();
}

/** End to end, random weights. */
function model(shape, weights, promptTokens, newTokens, sequences, cacheDtype = 'bf16') {
  const size = ['-p', promptTokens, '-n', newTokens, '-b', sequences].map(String);
  const kind = weights === 'int4' ? ['--quantize', 'int4'] : [];
  const args = [
    'dist/lib/cli/main.js',
    'bench',
    '--device',
    'cuda',
    '--shape',
    shape,
    ...kind,
    ...size,
    ...['--kv-cache-dtype', cacheDtype, '--repeat', '2'],
  ];
  const { status, stdout } = run(`${shape} ${weights} ${size.join(' ')} ${cacheDtype}`, process.execPath, args, 90);
  const last = stdout.trim().split('\n').at(-1) ?? '';
  results.models.push({
    shape,
    weights,
    promptTokens,
    newTokens,
    sequences,
    cacheDtype,
    status,
    figures: last.startsWith('{') ? JSON.parse(last) : last,
  });
  save();
}

save();
facts();
instructions();
test('operations', ['dist/test/ops/*.test.js'], 120);
test('models', ['dist/test/model/*.test.js'], 60);
test('engine and generation', ['dist/test/engine/engine.test.js', 'dist/test/generation/*.test.js'], 60, 'cuda');
operations();
for (const sequences of [1, 8, 64, 128, 256]) model('qwen2-72b', 'int4', 512, 32, sequences);
for (const cacheDtype of ['fp8', 'int8']) model('qwen2-72b', 'int4', 512, 32, 256, cacheDtype);
for (const weights of ['bf16', 'int4'])
  for (const shape of ['qwen2-0.5b', 'qwen2-7b'])
    for (const sequences of [1, 8, 64]) model(shape, weights, 512, 64, sequences);
for (const sequences of [1, 8]) model('qwen2-72b', 'bf16', 512, 32, sequences);
sanitize();
results.ended = new Date().toISOString();
save();
