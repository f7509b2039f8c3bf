import { join } from 'node:path';
import type { Qwen2Config } from './config.js';
import { JsonFields, readJson } from './jsonFile.js';

/** What a checkpoint's generation_config.json recommends. */
export interface GenerationConfig {
  /** 0: the most probable token, always. */
  temperature: number;
  topP: number;
  /** 0: all tokens. */
  topK: number;
  minP: number;
  repetitionPenalty: number;
  /** Tokens that end a text. */
  eosTokenIds: number[];
}

/** Without the file: greedy. Sampling is on only where the file says `do_sample`, as in Hugging Face's code. */
export const neutralGenerationConfig: Omit<GenerationConfig, 'eosTokenIds'> = {
  temperature: 0,
  topP: 1,
  topK: 0,
  minP: 0,
  repetitionPenalty: 1,
};

/** Reads a folder's generation_config.json; without one, the end tokens are config.json's. */
export async function readGenerationConfig(folder: string, config: Qwen2Config): Promise<GenerationConfig> {
  const path = join(folder, 'generation_config.json');
  const json = await readJson(path, true);
  if (json === undefined) return { ...neutralGenerationConfig, eosTokenIds: config.eosTokenIds };
  return parseGenerationConfig(json, path, config);
}

/** @throws invalid_checkpoint naming the field, its value and what was expected */
export function parseGenerationConfig(json: unknown, where: string, config: Qwen2Config): GenerationConfig {
  const fields = new JsonFields(json, where);
  const samples = fields.boolean('do_sample', false);
  const temperature = fields.number('temperature', { fallback: 1, max: 100 });
  return {
    temperature: samples ? temperature : 0,
    topP: fields.number('top_p', { fallback: 1, min: 1e-6, max: 1 }),
    topK: fields.integer('top_k', { fallback: 0, min: 0 }),
    minP: fields.number('min_p', { fallback: 0, max: 1 }),
    repetitionPenalty: fields.number('repetition_penalty', { fallback: 1, min: 0.01, max: 100 }),
    eosTokenIds: fields.tokenIds('eos_token_id') ?? config.eosTokenIds,
  };
}
