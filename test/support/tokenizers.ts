import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { packageFolder } from '../../lib/native/addon.js';
import { loadTokenizer, type Tokenizer } from '../../lib/tokenizer/tokenizer.js';
import { demoFolder } from './checkpoints.js';

/** The published Qwen2 tokenizer with vectors of other implementations, which this repository is too small to hold. */
const qwen2Folder = resolve(packageFolder, process.env.QWEN2_TOKENIZER_FIXTURES ?? '../shared/fixtures/tokenizer');

/** The tokenizers that tests run on: the demo's 2,048 tokens, always, and Qwen2's 151,646 where they are. */
export const tokenizerFolders = [
  { name: 'the demo', folder: demoFolder },
  { name: 'Qwen2', folder: qwen2Folder },
];

/** Skips what needs Qwen2's own tokenizer where that is absent. */
export function skipWithout(context: Mocha.Context, folder: string): void {
  if (!existsSync(join(folder, 'tokenizer.json'))) context.skip();
}

/** A file of the folder that holds Qwen2's own tokenizer. */
export function qwen2File(context: Mocha.Context, name: string): Promise<string> {
  skipWithout(context, qwen2Folder);
  return readFile(join(qwen2Folder, name), 'utf8');
}

/** Loads a tokenizer before the tests of a suite, for as long as they run; they get it by calling the result. */
export function tokenizerOfSuite(folder: string): () => Tokenizer {
  let tokenizer: Tokenizer | undefined;
  before(async function () {
    skipWithout(this, folder);
    tokenizer = await loadTokenizer(folder);
  });
  after(() => tokenizer?.dispose());
  return () => tokenizer!;
}

/** Qwen2's own tokenizer, or skips the suite. */
export const qwen2OfSuite = (): (() => Tokenizer) => tokenizerOfSuite(qwen2Folder);

/** Texts of a folder's files by name; undefined: there is none. */
export type Files = Record<string, string | undefined>;

// biome-ignore lint/suspicious/noExplicitAny: tests give the files any form
export type Json = any;

/** A change of the parsed tokenizer.json and tokenizer_config.json. */
export type FileEdit = (tokenizer: Json, config: Json) => void;

/** The demo's tokenizer.json and tokenizer_config.json after a change. */
export async function editedDemoFiles(edit: FileEdit = () => {}): Promise<Files> {
  const read = async (name: string) => JSON.parse(await readFile(join(demoFolder, name), 'utf8'));
  const [tokenizer, config] = await Promise.all([read('tokenizer.json'), read('tokenizer_config.json')]);
  edit(tokenizer, config);
  return { 'tokenizer.json': JSON.stringify(tokenizer), 'tokenizer_config.json': JSON.stringify(config) };
}

/** Calls with a temporary folder that holds the files. */
export async function withFolder<T>(files: Files, use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'qwen2-tokenizer-'));
  try {
    for (const [name, content] of Object.entries(files))
      if (content !== undefined) await writeFile(join(folder, name), content);
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Calls with a tokenizer that is loaded from a temporary folder with the files. */
export function withTokenizer<T>(files: Files, use: (tokenizer: Tokenizer) => Promise<T>): Promise<T> {
  return withFolder(files, async (folder) => {
    const tokenizer = await loadTokenizer(folder);
    try {
      return await use(tokenizer);
    } finally {
      await tokenizer.dispose();
    }
  });
}

/** Calls with the demo's tokenizer under another chat template. */
export async function withTemplate<T>(template: string, use: (tokenizer: Tokenizer) => Promise<T>): Promise<T> {
  return withTokenizer({ ...(await editedDemoFiles()), 'chat_template.jinja': template }, use);
}
