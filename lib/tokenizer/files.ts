import { access, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Qwen2Error } from '../native/errors.js';
import { asObject, type JsonObject } from './definition.js';

/** A checkpoint's tokenizer files, parsed. */
export interface TokenizerFiles {
  /** Where tokenizer.json is, for messages. */
  path: string;
  tokenizer: JsonObject;
  config: JsonObject;
  /** Jinja; undefined if the checkpoint has none. */
  chatTemplate: string | undefined;
}

/** Whether a folder has a tokenizer. One without is legal: its model works on token ids. */
export async function hasTokenizer(folder: string): Promise<boolean> {
  return access(join(folder, 'tokenizer.json')).then(
    () => true,
    () => false,
  );
}

/** @throws not_found, invalid_checkpoint, io_error */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const path = join(folder, 'tokenizer.json');
  const configPath = join(folder, 'tokenizer_config.json');
  const tokenizer = asObject(parse(path, await requireText(path)), path);
  const config = asObject(parse(configPath, (await readText(configPath)) ?? '{}'), configPath);
  const ownFile = await readText(join(folder, 'chat_template.jinja'));
  return { path, tokenizer, config, chatTemplate: ownFile ?? configuredTemplate(config, configPath) };
}

/** The config's chat_template: a string, or a list of {name, template} of which "default" is meant. */
function configuredTemplate({ chat_template: value }: JsonObject, path: string): string | undefined {
  if (value === undefined || value === null || typeof value === 'string') return value ?? undefined;
  const entries = Array.isArray(value)
    ? value.map((entry) => asObject(entry, `${path}: an entry of chat_template`))
    : [];
  const template = entries.find(({ name }) => name === 'default')?.template;
  if (typeof template === 'string') return template;
  throw new Qwen2Error(
    'invalid_checkpoint',
    `${path}: chat_template is neither a string nor a list of {name, template} with a "default"`,
  );
}

async function requireText(path: string): Promise<string> {
  const text = await readText(path);
  if (text === undefined) throw new Qwen2Error('not_found', `There is no file ${path}`);
  return text;
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw new Qwen2Error('io_error', `${path} can't be read: ${message}`, { cause });
  }
}

function parse(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Qwen2Error('invalid_checkpoint', `${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
}
