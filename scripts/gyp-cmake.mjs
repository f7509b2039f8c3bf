#!/usr/bin/env node
// Builds the addon with CMake into build/Release, where node-gyp-build finds it. Called by npm scripts, by binding.gyp
// and, in the place of node-gyp, by prebuildify.
//
// The CUDA library is built for the GPUs that this machine has, or for QWEN2_CUDA_ARCHITECTURES ("80-real;90a-real" …)
// with QWEN2_CUDA=ON; QWEN2_CUDA=OFF leaves it out. With --emulated, the library that runs CUDA kernels on the CPU is built
// too, for tests; with --selftest, the program that proves instructions on a GPU.
//
// QWEN2_SANITIZE=1 builds with sanitizers into build/sanitized/Release instead; QWEN2_BUILD_FOLDER names another folder
// than build.

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const sanitize = process.env.QWEN2_SANITIZE === '1';
const work = process.env.QWEN2_BUILD_FOLDER ?? join(root, sanitize ? 'build/sanitized' : 'build');

// node-gyp's verbs: prebuildify first asks for `install` of headers, which Node-API's own headers make needless.
if (process.argv.includes('install')) process.exit(0);

const architectures = cudaArchitectures();
const defines = {
  CMAKE_BUILD_TYPE: 'Release',
  QWEN2_SANITIZE: sanitize ? 'ON' : 'OFF',
  QWEN2_CUDA: architectures === '' ? 'OFF' : 'ON',
  QWEN2_CUDA_ARCHITECTURES: architectures,
};

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  if (result.error?.code === 'ENOENT') {
    console.error(`qwen2-node: building from source needs ${command}; install cmake and a C++20 compiler (g++ 12)`);
    process.exit(1);
  }
  if (result.status !== 0) process.exit(result.status ?? 1);
}

// What to compile CUDA kernels for, as CMake lists it; '' for nothing.
function cudaArchitectures() {
  const { QWEN2_CUDA: wanted, QWEN2_CUDA_ARCHITECTURES: listed } = process.env;
  if (wanted === 'OFF') return '';
  if (wanted === 'ON') return listed ?? '80-real;86-real;89-real;90a-real;100-real;120-real;120-virtual';
  if (spawnSync('nvcc', ['--version']).status !== 0) return '';
  const gpus = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' });
  if (gpus.status !== 0) return '';
  const capabilities = new Set(
    gpus.stdout
      .trim()
      .split(/\s+/)
      .map((capability) => capability.replace('.', '')),
  );
  return [...capabilities].map((capability) => `${capability === '90' ? '90a' : capability}-real`).join(';');
}

// A cache keeps the defines it was made with.
function forgetStaleCache() {
  const stamp = join(work, 'defines.json');
  const wanted = JSON.stringify({ defines, node: process.version });
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  rmSync(work, { recursive: true, force: true });
  mkdirSync(work, { recursive: true });
  writeFileSync(stamp, wanted);
}

// The path of a module, or undefined where it is not installed: cmake-js is a development dependency.
function resolve(name) {
  try {
    return require.resolve(name);
  } catch {
    return undefined;
  }
}

function buildWithCmakeJs(cmakeJs) {
  const flags = Object.entries(allDefines).map(([name, value]) => `--CD${name}=${value}`);
  const build = ['build', '--out', work, '--parallel', jobs, '--log-level', 'warn', ...flags];
  run(process.execPath, [cmakeJs, ...build]);
  for (const target of extraTargets) run(process.execPath, [cmakeJs, ...build, '--target', target]);
}

function buildWithCmake() {
  const output = { CMAKE_LIBRARY_OUTPUT_DIRECTORY: join(work, 'Release') };
  const flags = Object.entries({ ...allDefines, ...output }).map(([name, value]) => `-D${name}=${value}`);
  run('cmake', ['-S', root, '-B', work, '-Wno-dev', ...flags]);
  run('cmake', ['--build', work, '--parallel', jobs]);
  for (const target of extraTargets) run('cmake', ['--build', work, '--parallel', jobs, '--target', target]);
}

const extraTargets = [
  ...(process.argv.includes('--emulated') ? ['qwen2-cuda-emulated', 'qwen2-emulation-selftest'] : []),
  ...(process.argv.includes('--selftest') ? ['qwen2-cuda-selftest'] : []),
];
const jobs = String(availableParallelism());
const allDefines = {
  ...defines,
  NODE_API_HEADERS: require('node-api-headers').include_dir,
  NODE_ADDON_API: dirname(require.resolve('node-addon-api/package.json')),
};

forgetStaleCache();
const cmakeJs = resolve('cmake-js/bin/cmake-js');
if (cmakeJs) buildWithCmakeJs(cmakeJs);
else buildWithCmake();
