// Compiles every CUDA kernel with nvcc: no warnings, no spills of registers to memory but those that are allowed below, and
// no more instructions in inner loops than hot-loops.mjs says.
//
//   npm run check:cuda              for compute capabilities 8.0 and 9.0
//   npm run check:cuda -- --all     for all that prebuilds are made for
//
// Where there is no nvcc it says so and does nothing: it needs no GPU, but the toolkit.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { checkHotLoops } from './hot-loops.mjs';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const architectures = process.argv.includes('--all') ? ['80', '86', '89', '90a', '100', '120'] : ['80', '90a'];

/** Kernels that may spill, by a part of their names: how many bytes a thread, where, and why. */
const allowedSpills = {
  // The skinny product of 17 to 32 tokens. At 128 registers two blocks are resident; ptxas for these architectures wants 1
  // to 6 more. One block without spills would have half the bytes in flight, which is what bounds it.
  SkinnyShapeILi2ELi4E: { bytes: 24, architectures: ['100', '120'] },
  // The same of int4 weights: a multiprocessor's registers are all in use, and 4 KB of weights a warp are to be in flight.
  QuantizedSkinnyShapeINS0_9Int4CodecELi1ELi4E: { bytes: 12, architectures: ['100'] },
};

if (spawnSync('nvcc', ['--version']).status !== 0) {
  console.log('check-cuda: there is no nvcc here; kernels were not compiled');
  process.exit(0);
}

const sources = ['csrc/cuda', 'csrc/ops', 'csrc/emulation/selftest'].flatMap((folder) =>
  readdirSync(join(root, folder), { recursive: true })
    .filter((file) => file.endsWith('.cu'))
    .map((file) => `${folder}/${file}`),
);
const objects = mkdtempSync(join(tmpdir(), 'qwen2-cuda-'));
const faults = [];
let kernels = 0;
let loops = 0;
// As in CMakeLists.txt.
const flags = ['-std=c++20', '-O3', '--expt-relaxed-constexpr', '-Icsrc'];

try {
  const jobs = architectures.flatMap((architecture) => sources.map((source) => ({ source, architecture })));
  await Promise.all(Array.from({ length: availableParallelism() }, () => work(jobs)));
  const checked = checkHotLoops(root, flags, objects);
  faults.push(...checked.faults);
  loops = checked.loops;
} finally {
  rmSync(objects, { recursive: true, force: true });
}
for (const fault of faults) console.error(fault);
console.log(
  `check-cuda: ${sources.length} files for ${architectures.join(', ')}; ${kernels} kernels, ${loops} loops, ${faults.length} faults`,
);
process.exitCode = faults.length > 0 || kernels === 0 ? 1 : 0;

async function work(jobs) {
  for (let job = jobs.pop(); job !== undefined; job = jobs.pop()) await compile(job);
}

async function compile({ source, architecture }) {
  const object = join(objects, `${source.replaceAll('/', '_')}_${architecture}.o`);
  const nvcc = spawn('nvcc', [...flags, '--resource-usage', `-arch=sm_${architecture}`, '-c', source, '-o', object], {
    cwd: root,
  });
  let output = '';
  for (const stream of [nvcc.stdout, nvcc.stderr]) stream.on('data', (data) => (output += data));
  const status = await new Promise((resolve) => nvcc.on('close', resolve));
  const where = `${source}, sm_${architecture}`;
  if (status !== 0) faults.push(`${where}: nvcc fails\n${output}`);
  // wgmmas that ptxas can't let run by themselves are only said to be a potential loss of performance.
  for (const line of output.split('\n'))
    if (/warning|potential performance loss/i.test(line)) faults.push(`${where}: ${line}`);
  let kernel = '';
  for (const line of output.split('\n')) {
    const name = /Compiling entry function '([^']+)'/.exec(line);
    if (name) {
      kernel = name[1];
      kernels++;
    }
    const spill = /(\d+) bytes spill stores, (\d+) bytes spill loads/.exec(line);
    if (!spill || Number(spill[1]) + Number(spill[2]) === 0) continue;
    const allowed = allowedBytes(kernel, architecture);
    if (Number(spill[1]) > allowed) faults.push(`${where}: ${kernel} spills ${spill[1]} bytes, ${allowed} are allowed`);
  }
}

function allowedBytes(kernel, architecture) {
  const known = Object.entries(allowedSpills).find(([part]) => kernel.includes(part))?.[1];
  return known?.architectures.includes(architecture) ? known.bytes : 0;
}
