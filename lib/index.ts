export { type BatchFileOptions, type BatchFileProgress, runBatchFile } from './batch/batchFile.js';
export {
  type BatchOptions,
  type BatchOutcome,
  type BatchProgress,
  type BatchRequest,
  generateBatch,
} from './batch/generateBatch.js';
export type { BatchFiles } from './batch/requestFile.js';
export type { Qwen2Config } from './checkpoint/config.js';
export type { GenerationConfig } from './checkpoint/generationConfig.js';
export type { LoadProgress } from './checkpoint/loader.js';
export type { EngineOptions, KvCacheOptions } from './engine/memory.js';
export type { FinishReason, Logprobs, TokenLogprob } from './engine/sequence.js';
export type { EndEvent, EngineEvents, EngineStats, HistogramSnapshot, StepEvent } from './engine/statistics.js';
export type { ChoiceResult, Piece } from './generation/choice.js';
export type { Generation, GenerationResult, Usage } from './generation/generation.js';
export {
  type CheckpointSummary,
  type DeviceFit,
  type InspectOptions,
  inspectCheckpoint,
} from './generation/inspect.js';
export { type LoadOptions, loadModel, type RandomModel, type WeightOptions } from './generation/loadModel.js';
export type { GenerateOptions, Model, ModelMemory, Prompt, Score } from './generation/model.js';
export type { DeviceLimits } from './native/addon.js';
export { type DeviceOptions, type DeviceStatus, defaultDevice, listDevices, measureDevice } from './native/device.js';
export { Qwen2Error, type Qwen2ErrorCode } from './native/errors.js';
export {
  type QuantizeOptions,
  type QuantizeProgress,
  type QuantizeResult,
  quantizeCheckpoint,
} from './quantization/quantizeCheckpoint.js';
export { type QueuedBatchOptions, runQueuedBatch } from './queue/coordinator.js';
export { requireQueue } from './queue/requireQueue.js';
export { type QueueWorkerOptions, type QueueWorkerProgress, runQueueWorker } from './queue/worker.js';
export type { SamplingParameters } from './sampler/parameters.js';
export type { ChatMessage, ChatOptions } from './tokenizer/chatTemplate.js';
export type { TokenStream } from './tokenizer/detokenizer.js';
export { type DecodeOptions, type EncodeOptions, loadTokenizer, type Tokenizer } from './tokenizer/tokenizer.js';
