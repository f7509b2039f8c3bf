// `npm run check:package`: packs the package, installs it into empty projects as a user would, and uses it there: built
// from source, where no development dependency is, and prebuilt, with npm's install scripts off.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const demo = join(root, 'models', 'demo', 'checkpoint');
const work = mkdtempSync(join(tmpdir(), 'qwen2-package-'));
const platform = `${process.platform}-${process.arch}`;

/** Runs a program to its end; stdout. */
function run(cwd, command, ...args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { cwd, encoding: 'utf8' });
  assert.equal(status, 0, `${command} ${args.join(' ')} failed: ${error ?? stdout + stderr}`);
  return stdout;
}

function step(title, check) {
  const started = performance.now();
  const result = check();
  console.log(`${title} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
  return result;
}

/** Packs a folder without running its scripts: the tarball's path, and the paths in it. */
function pack(folder) {
  const output = run(folder, 'npm', 'pack', '--json', '--ignore-scripts', '--pack-destination', work);
  const [{ filename, files }] = JSON.parse(output);
  return { tarball: join(work, filename), files: files.map(({ path }) => path) };
}

const required = [
  'LICENSE',
  'README.md',
  'CMakeLists.txt',
  'binding.gyp',
  'csrc/addon/exports.map',
  'csrc/ops/ops.def',
  'dist/lib/cli/main.js',
  'dist/lib/index.d.ts',
  'dist/lib/index.js',
  'dist/lib/tokenizer/worker.js',
  'package.json',
  'prebuilds/README.md',
  `prebuilds/${platform}/qwen2.node`,
  'scripts/gyp-cmake.mjs',
  'scripts/install.mjs',
];
const allowed =
  /^(LICENSE|README\.md|CMakeLists\.txt|binding\.gyp|package\.json|csrc\/|dist\/lib\/|prebuilds\/|scripts\/(gyp-cmake|install)\.mjs$)/;

function checkFiles(files) {
  for (const path of required) assert.ok(files.includes(path), `${path} is not packed`);
  for (const path of files) {
    assert.match(path, allowed, `${path} is packed, and no user needs it`);
    const source = path.replace(/^dist\//, '').replace(/(\.d\.ts|\.js)$/, '.ts');
    if (path.startsWith('dist/'))
      assert.ok(existsSync(join(root, source)), `${path} is left over: there is no ${source}`);
  }
}

/** The addon offers Node-API's two entries and nothing else, and needs no C++ library of its user's system. */
function checkAddon(path, { stripped }) {
  const exported = run(root, 'nm', '-D', '--defined-only', path).match(/\w+$/gm);
  assert.deepEqual(exported.sort(), ['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
  const libraries = run(root, 'ldd', path);
  assert.doesNotMatch(libraries, /libstdc\+\+|libgcc_s|not found/);
  if (stripped) assert.equal(run(root, 'nm', path), '', 'symbols are stripped');
}

/** An empty project with the package in it: its folder. */
function install(name, tarball, ...flags) {
  const project = join(work, name);
  mkdirSync(project);
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name, private: true }));
  run(project, 'npm', 'install', '--no-audit', '--no-fund', ...flags, tarball);
  assert.ok(!existsSync(join(project, 'node_modules', 'cmake-js')), 'users have no cmake-js');
  return project;
}

const folder = JSON.stringify(demo);
const programs = {
  'esm.mjs': `import { loadModel } from 'qwen2-node';
const model = await loadModel(${folder});
for await (const { text } of model.generate('To Sherlock Holmes she is always', { maxTokens: 3, temperature: 0 })) process.stdout.write(text);
await model.dispose();`,
  'commonjs.cjs': `const { loadModel } = require('qwen2-node');
loadModel(${folder}).then(async (model) => {
  process.stdout.write((await model.generate('To Sherlock Holmes she is always', { maxTokens: 3, temperature: 0 }).result()).text);
  await model.dispose();
});`,
};

function usePrograms(project) {
  for (const [name, text] of Object.entries(programs)) {
    writeFileSync(join(project, name), text);
    assert.equal(run(project, process.execPath, name), ' the woman.', name);
  }
}

function useCommand(project) {
  const command = join(project, 'node_modules', '.bin', 'qwen2');
  const prompt = 'To Sherlock Holmes she is always';
  assert.equal(run(project, command, 'generate', demo, prompt, '-n', '3', '-t', '0'), ' the woman.\n');
  assert.match(run(project, command, 'info'), /^cpu /m);
}

const typed = `const model: Model = await loadModel('folder', { device: 'cpu' });
for await (const piece of model.generate('text', { maxTokens: 3 })) { const text: string = piece.text; void text; }
// @ts-expect-error: there is no such option
model.generate('text', { maxToken: 3 });
`;

/** TypeScript finds the types from both kinds of modules, and they hold without skipLibCheck. */
function useTypes(project) {
  writeFileSync(join(project, 'esm.mts'), `import { loadModel, type Model } from 'qwen2-node';\n${typed}export {};\n`);
  const required = `import qwen2 = require('qwen2-node');\nconst devices: Promise<qwen2.DeviceStatus[]> = qwen2.listDevices();\nvoid devices;\n`;
  writeFileSync(join(project, 'commonjs.cts'), required);
  mkdirSync(join(project, 'node_modules', '@types'), { recursive: true });
  for (const name of ['@types/node', 'undici-types'])
    symlinkSync(join(root, 'node_modules', name), join(project, 'node_modules', name));
  const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext', '--types', 'node'];
  run(project, join(root, 'node_modules', '.bin', 'tsc'), ...options, 'esm.mts', 'commonjs.cts');
}

/** What somebody reads whose npm ran no install script and who has no prebuilt addon. */
function useNothing(project) {
  rmSync(join(project, 'node_modules', 'qwen2-node', 'prebuilds', platform), { recursive: true });
  const { status, stderr } = spawnSync(process.execPath, ['esm.mjs'], { cwd: project, encoding: 'utf8' });
  assert.equal(status, 1);
  assert.match(stderr, /native addon of qwen2-node can't be loaded for .*npm rebuild qwen2-node/);
}

try {
  step('the prebuilt addon is built', () => run(root, 'npm', 'run', 'prebuilds'));
  const prebuilt = step('the package is packed', () => pack(root));
  checkFiles(prebuilt.files);
  checkAddon(join(root, 'prebuilds', platform, 'qwen2.node'), { stripped: true });

  const installed = step('it installs with scripts off', () =>
    install('prebuilt', prebuilt.tarball, '--ignore-scripts'),
  );
  assert.ok(!existsSync(join(installed, 'node_modules', 'qwen2-node', 'build')));
  step('import and require work', () => usePrograms(installed));
  step('the command works', () => useCommand(installed));
  step('its types resolve', () => useTypes(installed));

  step('without any addon, the message says what to do', () => useNothing(installed));

  const sources = join(work, 'sources');
  cpSync(join(installed, 'node_modules', 'qwen2-node'), sources, { recursive: true });
  const built = step('it installs from source', () => install('built', pack(sources).tarball));
  checkAddon(join(built, 'node_modules', 'qwen2-node', 'build', 'Release', 'qwen2.node'), { stripped: false });
  step('import and require work', () => usePrograms(built));
} finally {
  rmSync(work, { recursive: true });
}
