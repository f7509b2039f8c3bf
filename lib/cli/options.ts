import { type Command, InvalidArgumentError, Option } from 'commander';
import type { DeviceOptions, GenerateOptions, KvCacheOptions, LoadOptions, Qwen2Error } from '../index.js';
import { resolveSamplingParameters } from '../sampler/parameters.js';

/** What all commands that compute take. */
export interface DeviceArguments {
  device: string;
  threads?: number;
  simd?: string;
}

/** How the weights are held and multiplied. */
export type WeightArguments = Pick<LoadOptions, 'quantize' | 'lmHead' | 'exact'>;

/** What the commands that load a checkpoint for its text take. */
export interface LoadArguments extends DeviceArguments, WeightArguments, CacheArguments {
  contextLength?: number;
}

/** How keys and values are held. */
export interface CacheArguments {
  kvCacheDtype?: KvCacheOptions['dtype'];
}

/** What the commands that generate take. */
export type SamplingArguments = Pick<
  GenerateOptions,
  | 'maxTokens'
  | 'temperature'
  | 'topP'
  | 'topK'
  | 'minP'
  | 'repetitionPenalty'
  | 'presencePenalty'
  | 'frequencyPenalty'
  | 'seed'
> & { stop?: string[]; ignoreEos?: boolean };

export function addDeviceOptions(command: Command): Command {
  return command
    .option('-d, --device <name>', 'auto, cuda, cuda:1, cpu or reference', 'auto')
    .option('--threads <n>', 'CPU threads (default: all)', wholeNumber)
    .addOption(new Option('--simd <level>', 'CPU kernels (default: the best)').choices(['scalar', 'avx2', 'avx512']));
}

export function addWeightOptions(command: Command): Command {
  return command
    .addOption(new Option('--quantize <type>', 'round the weights as they are loaded').choices(['int4']))
    .addOption(new Option('--lm-head <type>', 'round the LM head and the embedding table').choices(['int8']));
}

export function addCacheOption(command: Command): Command {
  return command.addOption(
    new Option('--kv-cache-dtype <type>', 'hold keys and values as this (default: bf16)').choices([
      'bf16',
      'fp8',
      'int8',
    ]),
  );
}

export function addExactOption(command: Command): Command {
  return command.option('--exact', 'multiply rounded weights with activations that are not rounded (CPU)');
}

export function addBatchInvariantOption(command: Command): Command {
  return command.option('--batch-invariant', 'the same tokens for a request in any company; slower on GPUs');
}

export function addLoadOptions(command: Command): Command {
  return addCacheOption(addExactOption(addWeightOptions(addDeviceOptions(command)))).option(
    '--context-length <n>',
    "tokens of a prompt and its answer at most (default: the model's)",
    wholeNumber,
  );
}

export function deviceOptions({ device, threads, simd }: DeviceArguments): DeviceOptions & { device: string } {
  return { device, threads, simd };
}

export function weightOptions({ quantize, lmHead, exact }: WeightArguments): WeightArguments {
  return { quantize, lmHead, exact };
}

export function cacheOptions({ kvCacheDtype: dtype }: CacheArguments): { kvCache: KvCacheOptions } {
  return { kvCache: { dtype } };
}

export function loadOptions(options: LoadArguments): LoadOptions {
  const { contextLength } = options;
  return { ...deviceOptions(options), ...weightOptions(options), ...cacheOptions(options), contextLength };
}

export function addSamplingOptions(command: Command): Command {
  return command
    .option('-n, --max-tokens <n>', 'tokens to generate at most', wholeNumber)
    .option('-t, --temperature <x>', "0 is greedy (default: the checkpoint's)", number)
    .option('--top-p <x>', 'keep the most probable tokens of this mass', number)
    .option('--top-k <n>', 'keep so many most probable tokens', wholeNumber)
    .option('--min-p <x>', 'keep tokens this fraction as probable as the best', number)
    .option('--repetition-penalty <x>', 'above 1: less of what was already there', number)
    .option('--presence-penalty <x>', 'less of what the output has', number)
    .option('--frequency-penalty <x>', 'less of what the output has often', number)
    .option('-s, --seed <n>', 'the same seed gives the same text', wholeNumber)
    .option('--stop <text>', 'end before this text; may be given several times', collect)
    .option('--ignore-eos', 'go on after the end-of-text token');
}

/**
 * Commander keeps all options of a command together: these are the ones that generate() takes. They are checked here, before
 * a model is loaded for minutes.
 *
 * @throws invalid_argument
 */
export function samplingOptions(options: SamplingArguments): SamplingArguments {
  const { maxTokens, temperature, topP, topK, minP, repetitionPenalty, presencePenalty, frequencyPenalty } = options;
  const { seed, stop, ignoreEos } = options;
  const penalties = { repetitionPenalty, presencePenalty, frequencyPenalty };
  const given = { maxTokens, temperature, topP, topK, minP, ...penalties, seed, stop, ignoreEos };
  const sampling = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  resolveSamplingParameters(sampling, {}, { vocabularySize: Number.POSITIVE_INFINITY, maxLogprobs: 0 });
  return sampling;
}

export function wholeNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isSafeInteger(value)) throw new InvalidArgumentError('It must be a whole number.');
  return value;
}

function number(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || Number.isNaN(value)) throw new InvalidArgumentError('It must be a number.');
  return value;
}

/** Token ids, separated by commas. */
export function tokenIds(text: string): number[] {
  return text.split(',').map(wholeNumber);
}

function collect(text: string, before: string[] = []): string[] {
  return [...before, text];
}

/** The library's messages name its options in camel case, `topP`; whoever typed a command knows them as `--top-p`. */
export function explain({ message, code }: Qwen2Error, command: Command | undefined): string {
  const flags = new Map(command?.options.map((option) => [option.attributeName(), option.long!]));
  return `${message.replace(/\b[a-z]+[A-Z]\w*\b/g, (name) => flags.get(name) ?? name)} [${code}]`;
}
