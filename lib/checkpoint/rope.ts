import type { JsonFields } from './jsonFile.js';

/** How positions turn queries and keys. */
export interface RopeConfig {
  /** f32[headDim / 2]: the angle of pair j at position p is p × inverseFrequencies[j]. */
  inverseFrequencies: Float32Array;
  /** Multiplies cosines and sines. */
  attentionFactor: number;
}

/** YaRN's parameters (Peng et al. 2023, arXiv:2309.00071). */
export interface YarnScaling {
  factor: number;
  originalLength: number;
  betaFast: number;
  betaSlow: number;
  attentionFactor: number;
}

const { fround } = Math;

/** The rotary frequencies of RoPE (arXiv:2104.09864), computed in float32, as they are where models are trained. */
export function plainRope(headDim: number, theta: number): RopeConfig {
  const inverseFrequencies = Float32Array.from({ length: headDim / 2 }, (_, j) => 1 / wavelength(j, headDim, theta));
  return { inverseFrequencies, attentionFactor: 1 };
}

/** theta^(2j / headDim): 2π times this is the number of positions in which pair j turns once. */
function wavelength(j: number, headDim: number, theta: number): number {
  return fround(theta ** fround((2 * j) / headDim));
}

export function readYarn(fields: JsonFields, maxPositionEmbeddings: number): YarnScaling {
  const factor = fields.number('factor', { min: 1, max: 1e6 });
  return {
    factor,
    originalLength: fields.integer('original_max_position_embeddings', { fallback: maxPositionEmbeddings }),
    betaFast: fields.number('beta_fast', { fallback: 32, min: 1e-3, max: 1e6 }),
    betaSlow: fields.number('beta_slow', { fallback: 1, min: 1e-3, max: 1e6 }),
    attentionFactor: fields.number('attention_factor', { fallback: 0.1 * Math.log(factor) + 1, min: 1e-3, max: 1e3 }),
  };
}

/**
 * YaRN: pairs that turn often within the original length keep their frequency, pairs that turn less than once are
 * slowed by the factor, and between the two a ramp over the pairs blends them.
 */
export function yarnRope(headDim: number, theta: number, yarn: YarnScaling): RopeConfig {
  const { factor, attentionFactor } = yarn;
  const [low, high] = rampRange(headDim, theta, yarn);
  const inverseFrequencies = Float32Array.from({ length: headDim / 2 }, (_, j) => {
    const length = wavelength(j, headDim, theta);
    const extrapolated = fround(1 / length);
    const interpolated = fround(1 / fround(factor * length));
    const kept = fround(1 - clamp(fround(fround(j - low) / fround(high - low)), 0, 1));
    return fround(interpolated * fround(1 - kept)) + fround(extrapolated * kept);
  });
  return { inverseFrequencies, attentionFactor };
}

/** The pairs between which the ramp rises: where a pair turns betaFast and betaSlow times in the original length. */
function rampRange(
  headDim: number,
  theta: number,
  { originalLength, betaFast, betaSlow }: YarnScaling,
): [number, number] {
  const pairTurning = (turns: number) =>
    (headDim * Math.log(originalLength / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const low = Math.max(Math.floor(pairTurning(betaFast)), 0);
  const high = Math.min(Math.ceil(pairTurning(betaSlow)), headDim - 1);
  // An empty ramp would divide by zero; it is a step then.
  return [low, low === high ? high + 0.001 : high];
}

function clamp(x: number, low: number, high: number): number {
  return Math.min(Math.max(x, low), high);
}
