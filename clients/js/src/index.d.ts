/** How long a broken connection is tried again. */
export interface Patience {
  /** How often in a row the connection may fail, without anything new in between. 10 unless set, which is a minute. */
  retries?: number;
  /**
   * Milliseconds before the next try, where this is the `failures`-th failure in a row. Unless set, half a second that
   * doubles up to 8 s, of which a random part of up to a half is taken off.
   */
  delay?: (failures: number) => number;
  /**
   * Milliseconds without a byte after which a connection counts as broken. 45,000 unless set: the service sends at least a
   * keep-alive every 15 s, or as its operator has set `KEEPALIVE_SECONDS`.
   */
  silence?: number;
}

/** An answer could not be followed to its end. It goes on at the service, and can be followed again. */
export class HoldfastError extends Error {
  constructor(code: HoldfastError['code'], message: string, details?: { status?: number; cause?: unknown });
  name: 'HoldfastError';
  /**
   * - `connection_lost`: the connection failed more than `retries` times in a row; `cause` is the last failure.
   * - `refused`: the service answered that it can't be resumed, with the HTTP `status`.
   * - `deleted`: the message was deleted while it was followed.
   */
  readonly code: 'connection_lost' | 'refused' | 'deleted';
  readonly status: number | undefined;
}

export interface ResumingFetchOptions extends Patience {
  /** The `fetch` to call. The global one unless set. */
  fetch?: typeof globalThis.fetch;
  /**
   * Headers that are set anew when an answer is resumed, such as `Authorization` with a token that has not run out since.
   * All others are sent as they were.
   */
  headers?: () => HeadersInit | Promise<HeadersInit>;
}

/**
 * A `fetch` for any SDK of a model API. Where a streamed answer breaks off, it goes on after the last event that came, and
 * the SDK does not notice. All other responses are passed through.
 *
 * Where an answer can't be resumed, reading the body fails with a `HoldfastError`; where the request's signal is aborted,
 * with the signal's reason.
 */
export function resumingFetch(options?: ResumingFetchOptions): typeof globalThis.fetch;

/** What `httpsCallableFromURL(functions, url)` gives. */
export interface StreamingCallable {
  stream(
    data?: any,
    options?: { signal?: AbortSignal },
  ): Promise<{ readonly stream: AsyncIterable<any>; readonly data: Promise<any> }>;
}

/** How far an answer is. */
export interface AnswerUpdate {
  /** The generation's id. */
  id: string;
  /** The number of the last event whose text is in `text`: where to resume, as `{ resume: id, after: seq }`. */
  seq: number;
  /** All text so far. */
  text: string;
  /** What the event added to `text`. Empty where it says that the call was taken, or has been resumed. */
  delta: string;
  /** The event, in the format of the model's API; undefined where there is none. */
  event?: unknown;
}

/** How an answer ended. Fields that the model did not use are left out. */
export interface AnswerResult {
  id: string;
  chatId: string | null;
  messageId: string;
  state: 'completed' | 'stopped' | 'incomplete';
  reason: string | null;
  seq: number;
  /** The whole text. */
  content: string;
  usage: unknown;
  error: { message: string; code: string | null; param: string | null; status: number | null } | null;
  finishReason?: string;
  reasoning?: string;
  refusal?: string;
  toolCalls?: unknown[];
}

export interface AnswerOptions extends Patience {
  /** Called when the call was taken or resumed, and then for each event. */
  onUpdate?: (update: AnswerUpdate) => void;
  /** Called when the connection has failed and will be tried again. `failures` is how often it has in a row. */
  onBreak?: (error: unknown, failures: number) => void;
  /** The text that the app has already, where it resumes an answer after `seq`. */
  text?: string;
  /** Ends the call, not the answer: that goes on at the service. */
  signal?: AbortSignal;
}

/**
 * Calls the service through Firebase's SDK for callable functions, and comes back where it was when the connection breaks.
 *
 * `request` is a request to the model, or `{ resume: id, after: seq }`. One that has no `idempotencyKey` is given one, so
 * that asking again is never a second answer.
 *
 * Errors: the SDK's own where the request was refused or there is no answer at all; `HoldfastError`; the signal's reason.
 */
export function answer(
  callable: StreamingCallable,
  request: Record<string, unknown>,
  options?: AnswerOptions,
): Promise<AnswerResult>;

/** What `follow` calls of Firestore's SDK: the module `firebase/firestore`, or an object with these functions of it. */
export interface FirestoreSdk {
  collection(db: any, path: string): any;
  doc(db: any, path: string): any;
  getDoc(reference: any): Promise<any>;
  onSnapshot(reference: any, onNext: (snapshot: any) => void, onError: (error: any) => void): () => void;
}

/** A message as it is in Firestore. Fields that the model did not use are left out. */
export interface Message {
  role: 'assistant';
  content: string;
  state: 'queued' | 'streaming' | 'completed' | 'stopped' | 'incomplete' | 'failed';
  reason: string | null;
  generationId: string;
  reasoning?: string;
  refusal?: string;
  toolCalls?: unknown;
  [field: string]: any;
}

export interface FollowUpdate {
  /** All text so far, once there is a message. */
  text: string;
  /** Undefined until the answer has been requested. Its texts are empty until it has ended. */
  message: Message | undefined;
}

export interface FollowOptions {
  /** Called at each change of the message or its text. */
  onUpdate?: (update: FollowUpdate) => void;
  /**
   * Called where a running answer has not changed for `stalledAfter`, and again after as long: its worker may be lost. Call
   * `GET /v1/generations/{generationId}`, which then has another one take over.
   */
  onStalled?: (message: Message) => void;
  /** Milliseconds. 60,000 unless set. */
  stalledAfter?: number;
  /** Ends the listening, not the answer: that goes on at the service. */
  signal?: AbortSignal;
}

/**
 * Listens to the message at `path` and to its text as it grows, until the answer has ended. Gives the message with all its
 * texts whole. May be called before the answer is requested, and after it has ended.
 *
 * Errors: Firestore's own, such as `permission-denied`; `HoldfastError` where the message is deleted; the signal's reason.
 */
export function follow(sdk: FirestoreSdk, db: any, path: string, options?: FollowOptions): Promise<Message>;
