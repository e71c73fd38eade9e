// One who uses the page with useChat.
import { Visitor as Someone } from './visitor.mjs';

export class Visitor extends Someone {
  constructor(page, order) {
    super(page, order);
    this.asked = 0; // how often an answer was asked for
    page.on('request', (request) => {
      if (request.method() === 'POST' && request.url() === `${order.api}/api/chat`) this.asked += 1;
    });
  }

  async ask(question, { tokens = 300, rate = 40, does = 'answers' } = {}) {
    const field = this.page.getByLabel('Tokens');
    if (!(await field.isVisible())) await this.page.getByText('what the model does').click();
    await field.fill(String(tokens));
    await this.page.getByLabel('A second').fill(String(rate));
    await this.page.getByLabel('The model').selectOption(does);
    await this.page.getByLabel('Your question').fill(question);
    await this.page.getByRole('button', { name: 'Ask', exact: true }).click();
  }

  /** Signs in, and waits until the page has asked what runs. */
  async signIn(name) {
    const asked = this.page.waitForResponse((response) => response.url().endsWith('/stream'));
    await this.signInOnly(name);
    await asked;
  }

  signInOnly(name) {
    return super.signIn(name);
  }

  get turn() {
    return this.page.locator('.answer').last();
  }

  /** Another tab of the same browser. */
  async anotherTab() {
    const tab = new Visitor(await this.page.context().newPage(), this);
    await tab.page.goto(this.url);
    return tab;
  }

  /** Waits until nothing of the user's is being written. */
  async served() {
    for (const end = Date.now() + 60_000; (await this.running()).length > 0; ) {
      if (Date.now() > end) throw new Error('It does not end.');
      await new Promise((over) => setTimeout(over, 50));
    }
  }

  /** The notes that the page's tool has saved. */
  notes() {
    return this.page.evaluate((user) => JSON.parse(localStorage.getItem(`holdfast/usechat/${user}/notes`)), this.user);
  }

  button(name) {
    return this.page.getByRole('button', { name, exact: true });
  }

  /** Waits until the page shows at least this much of the last answer's text. */
  async until(characters) {
    const far = (least) => [...document.querySelectorAll('.answer')].at(-1)?.textContent.length >= least;
    await this.page.waitForFunction(far, characters);
  }

  /** Waits until the last answer has ended like this, and the page is idle. */
  async ended(state) {
    await this.turn.and(this.page.locator(`[data-state="${state}"]`)).waitFor();
    await this.page.locator('.chat:is([data-status="ready"], [data-status="error"])').waitFor();
  }

  /** What is on the page: the questions, and each answer's id and texts. */
  shown() {
    return this.page.evaluate(() => ({
      questions: [...document.querySelectorAll('.question .text')].map((each) => each.textContent),
      answers: [...document.querySelectorAll('.answer')].map((each) => ({
        id: each.dataset.id,
        state: each.dataset.state,
        texts: [...each.querySelectorAll(':scope > .text')].map((text) => text.textContent),
        reasoning: [...each.querySelectorAll('.reasoning .text')].map((text) => text.textContent),
        tools: [...each.querySelectorAll('.tool')].map((tool) => [
          tool.dataset.state,
          tool.querySelector('.text').textContent,
        ]),
        about: each.querySelector('footer').textContent,
      })),
    }));
  }
}
