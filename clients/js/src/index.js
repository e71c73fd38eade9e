export { answer } from './answer.js';
export { HoldfastError } from './error.js';
export { follow } from './follow.js';
export { resumingFetch } from './resuming_fetch.js';
