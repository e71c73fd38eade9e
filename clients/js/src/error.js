/** Documented in index.d.ts, like everything that is exported. */
export class HoldfastError extends Error {
  name = 'HoldfastError';

  /**
   * @param {import('./index.d.ts').HoldfastError['code']} code
   * @param {string} message
   * @param {{ status?: number, cause?: unknown }} [details]
   */
  constructor(code, message, { status, cause } = {}) {
    super(message, { cause });
    this.code = code;
    this.status = status;
  }
}
