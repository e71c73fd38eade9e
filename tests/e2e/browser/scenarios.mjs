// What is done in the browser. What must be true of it is said in tests/e2e/test_browser.py.

export async function reload(visitor, order, say) {
  const me = await visitor();
  await me.page.goto(me.url);
  await me.page.getByLabel('Your name').waitFor();
  await me.screenshot('0-sign-in');
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(order.tokens / 4);
  await me.screenshot('1-writing');
  say({ before: await me.answer() });
  await me.page.reload();
  await me.turn.waitFor();
  say({ at: await me.answer() });
  await me.until(order.tokens / 2);
  await me.screenshot('2-after-the-reload');
  await me.ended('completed');
  say({ after: await me.answer(), calls: me.calls });
  await me.screenshot('3-complete');
}

/** Reloads once in each answer, as soon as it is as far as the moment says; 0 is before its first word. */
export async function reloads(visitor, { rounds, moments, tokens, rate, question }, say) {
  const me = await visitor();
  await me.signIn();
  for (let round = 0; round < rounds; round += 1) {
    if (round > 0) await me.page.getByRole('button', { name: 'New chat' }).click();
    await me.ask(`${question} ${round}`, tokens, rate);
    await me.until(moments[round]);
    const before = await me.answer();
    await me.page.reload();
    await me.ended('completed');
    const { text, seq } = await me.answer();
    say({ question: `${question} ${round}`, left: before.seq, seq, text });
  }
}

/** A page that keeps its text and not its cursor: what must never be. */
export async function forgetful(visitor, order, say) {
  const me = await visitor();
  await me.page.addInitScript(() => {
    for (const key of Object.keys(localStorage).filter((each) => each.includes('/turn/'))) {
      localStorage.setItem(key, JSON.stringify({ ...JSON.parse(localStorage.getItem(key)), seq: 0 }));
    }
  });
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(100);
  const { seq } = await me.answer();
  await me.page.reload();
  await me.until(seq + 50);
  await me.stop();
  say(await me.answer());
}

export async function stop(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(20);
  await me.stop();
  await me.page.getByText('Nothing is being written.').waitFor();
  say(await me.answer());
  await me.screenshot('4-stopped');
}

export async function offline(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(50);

  await me.page.context().setOffline(true);
  await me.page.locator('#offline').getByText('There is no network').waitFor();
  const first = await away(me, say);
  await me.screenshot('5-offline');
  await me.page.context().setOffline(false);
  await me.until(first + 50);

  const line = me.page.getByRole('switch', { name: 'Connection' });
  await line.uncheck();
  await me.page.locator('#offline').getByText('You have switched the connection off').waitFor();
  const second = await away(me, say);
  await line.check();
  await me.until(second + 50);
  await me.stop();
  say({ after: await me.answer(), calls: me.calls });
}

/** While the page is away the answer goes on, and the page stands still. Gives how far the answer is. */
async function away(me, say) {
  const before = await me.answer();
  const served = await me.servedBeyond(before.seq + 50);
  say({ before, at: await me.answer(), served });
  return served;
}

/** Another device of the same user finds the answer in the list, follows it from its beginning, and stops it there. */
export async function elsewhere(visitor, order, say) {
  const phone = await visitor({ viewport: { width: 390, height: 844 }, colorScheme: 'dark', hasTouch: true });
  await phone.signIn();
  await phone.ask(order.question, order.tokens, order.rate);
  await phone.until(100);
  const { seq } = await phone.answer();
  await phone.page.close();

  const desk = await visitor();
  await desk.signIn();
  await desk.page.getByRole('button', { name: /^Open: / }).click();
  await desk.until(seq + 50);
  await desk.screenshot('6-opened-elsewhere');
  await desk.page.getByRole('button', { name: /^Stop: / }).click();
  await desk.ended('stopped');
  say({ seq, ...(await desk.answer()) });
}

/** Everything by keys alone, and nothing that axe or a narrow window objects to. */
export async function keys(visitor, order, say) {
  for (const [width, colorScheme] of [[1280, 'light'], [320, 'dark']]) {
    const me = await visitor({ viewport: { width, height: 800 }, colorScheme });
    const { keyboard } = me.page;
    const to = async (name) => {
      for (let press = 0; press < 30; press += 1) {
        const at = await me.page.evaluate(() => {
          const { ariaLabel, labels, textContent, title } = document.activeElement;
          return ariaLabel ?? labels?.[0]?.textContent.trim() ?? (textContent.trim() || title);
        });
        if (at.startsWith(name)) return;
        await keyboard.press('Tab');
      }
      throw new Error(`No way leads to '${name}' by keys.`);
    };
    const found = { width, colorScheme, barriers: [], overflows: false };
    const look = async () => {
      found.barriers.push(...(await me.barriers()));
      found.overflows ||= await me.overflows();
    };

    await me.page.goto(me.url);
    await me.page.getByLabel('Your name').waitFor();
    await look();
    await to('Your name');
    await keyboard.type(`${order.user}-${width}`);
    await keyboard.press('Enter');
    await me.page.getByLabel('Your question').waitFor();
    await to('Length and speed');
    await keyboard.press('Enter');
    await to('Tokens');
    await keyboard.type('10000');
    await to('Your question');
    await keyboard.type(order.question);
    await keyboard.press('Enter');
    await me.until(20);
    await me.page.getByRole('button', { name: /^Open: / }).waitFor();
    await look();
    await to('Connection');
    await keyboard.press('Space');
    await me.page.locator('#offline').waitFor();
    await look();
    await me.page.screenshot({ path: `${order.screenshots}/7-switched-off-${width}-${colorScheme}.png` });
    await keyboard.press('Space');
    await me.page.locator('#offline').waitFor({ state: 'hidden' });
    await to('Open');
    await keyboard.press('Enter');
    found.opened = await me.page.evaluate(() => document.activeElement.matches('#turns > li'));
    await to('Stop');
    await keyboard.press('Enter');
    await me.ended('stopped');
    found.said = await me.page.locator('#status').textContent();
    await look();
    say(found);
    await me.page.context().close();
  }
}
