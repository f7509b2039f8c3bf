// Checks the arrows of ARCHITECTURE.md's "Who may import whom": #include lines in csrc, imports in lib. Prints each one
// that points the wrong way, with file and line, and exits with 1 if there is any.
//
//   node scripts/check-architecture.mjs [folder that holds csrc and lib]

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, posix, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What each room of csrc may include, beside itself and system headers. A longer path has rules of its own. */
const nativeRooms = {
  core: [],
  reference: ['core'],
  cpu: ['core'],
  cuda: ['core'],
  'cuda/ptx.h': ['core', 'emulation'], // beside an instruction, its emulation
  'cuda/ptx_sm90.h': ['core', 'emulation'],
  emulation: ['core'],
  'emulation/selftest': ['core', 'cuda'], // kernels that try what the emulation promises
  ops: ['core', 'reference', 'cpu', 'cuda'],
  addon: ['core', 'ops'],
};

/** The devices' words that an operation's file may use, by its ending. A contract uses none. */
const operationFiles = [
  { ending: '_reference.cpp', words: ['reference'] },
  { ending: '_cpu.cpp', words: ['cpu'] },
  { ending: '.cu', words: ['cuda'] },
  { ending: '.cuh', words: ['cuda'] },
  { ending: '', words: [] },
];

/** What each room of lib may import, beside itself: rooms, or single modules. index.ts is a room of its own. */
const libraryRooms = {
  native: [],
  checkpoint: ['native'],
  nn: ['native'],
  sampler: ['native'],
  model: ['native', 'checkpoint', 'nn'],
  engine: ['native', 'checkpoint', 'sampler', 'model'],
  tokenizer: ['native/errors'],
  generation: ['native', 'checkpoint', 'sampler', 'model', 'engine', 'tokenizer'],
  quantization: ['native', 'checkpoint', 'nn', 'model', 'tokenizer'],
  batch: ['native', 'sampler', 'engine', 'tokenizer', 'generation'],
  queue: ['native', 'generation', 'batch'],
  index: ['native', 'checkpoint', 'sampler', 'engine', 'tokenizer', 'generation', 'quantization', 'batch', 'queue'],
  cli: ['index', 'sampler/parameters'], // options are checked before anything is loaded
};

/** Packages that one room alone knows. */
const packageRooms = {
  '@huggingface/jinja': ['tokenizer'],
  commander: ['cli'],
  'cli-progress': ['cli'],
  bullmq: ['queue'],
  ioredis: ['queue'],
};

/** Why a file of csrc may not include a header, or undefined. */
function wrongInclude(file, included) {
  const [room, operation] = file.split('/');
  if (included === 'napi.h' || included === 'node_api.h')
    return room === 'addon' ? undefined : 'only csrc/addon knows Node-API';
  const [target, targetOperation, targetFile] = included.split('/');
  if (!(target in nativeRooms)) return undefined;
  const rules = Object.keys(nativeRooms).findLast((path) => `${file}/`.startsWith(`${path}/`));
  if (target !== room && !nativeRooms[rules]?.includes(target)) return `${rules ?? room} may not include ${included}`;
  if (room !== 'ops' || file.split('/').length === 2) return undefined;
  if (target === 'ops') {
    const isTable = targetFile === undefined;
    const isContract = targetFile === `${targetOperation}.h`;
    return isTable || isContract || targetOperation === operation
      ? undefined
      : `${operation} may not include the insides of ${targetOperation}`;
  }
  const { words } = operationFiles.find(({ ending }) => file.endsWith(ending));
  return target === 'core' || words.includes(target) ? undefined : `this file may not use the words of ${target}`;
}

/** Why a file of lib may not import a module, or undefined. */
function wrongImport(file, imported) {
  const room = roomOf(file);
  if (!imported.startsWith('.')) {
    const rooms = packageRooms[imported];
    return rooms === undefined || rooms.includes(room) ? undefined : `only ${rooms} may import ${imported}`;
  }
  const path = posix.join(posix.dirname(file), imported).replace(/\.js$/, '');
  const target = roomOf(path);
  if (target === room) return undefined;
  const allowed = libraryRooms[room]?.some((name) => name === target || name === path);
  return allowed ? undefined : `${room} may not import ${path}`;
}

function roomOf(path) {
  return path.split('/')[0].replace(/\.ts$/, '');
}

function* filesUnder(folder, endings) {
  for (const entry of readdirSync(folder, { withFileTypes: true, recursive: true }))
    if (entry.isFile() && endings.test(entry.name)) yield join(entry.parentPath ?? entry.path, entry.name);
}

/** Every line of the folder's files that matches, as "path:line: why", where `wrong` finds a reason. */
function* violations(root, folder, endings, patterns, wrong) {
  for (const path of filesUnder(join(root, folder), endings)) {
    const file = relative(join(root, folder), path);
    for (const [i, line] of readFileSync(path, 'utf8').split('\n').entries())
      for (const pattern of patterns) {
        const found = pattern.exec(line)?.[1];
        const why = found && wrong(file, found);
        if (why) yield `${folder}/${file}:${i + 1}: ${why}`;
      }
  }
}

const root = process.argv[2] ?? dirname(dirname(fileURLToPath(import.meta.url)));
const found = [
  ...violations(root, 'csrc', /\.(cpp|cu|cuh|h|def)$/, [/^\s*#\s*include\s+["<]([^">]+)[">]/], wrongInclude),
  ...violations(root, 'lib', /\.ts$/, [/\bfrom '([^']+)'/, /\bimport\('([^']+)'\)/, /^import '([^']+)'/], wrongImport),
];
for (const violation of found) console.error(violation);
console.log(found.length === 0 ? 'Every include and import points the right way.' : `${found.length} wrong arrows.`);
process.exitCode = found.length === 0 ? 0 : 1;
