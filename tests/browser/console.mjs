// What the scripts of the console's tests share: where things are on its page.

export const consoleOf = (session) => `/console?session=${session}`;

/** Waits until the page shows this connection state. */
export const becomes = (page, state) => page.locator(`#connection[data-state="${state}"]`).waitFor();

/** The numbers at the top. */
export async function numbers(page) {
  const number = async (name) => Number((await page.locator(`#count-${name}`).textContent()).replaceAll(",", ""));
  return {
    entries: await number("entries"),
    gaps: await number("gaps"),
    duplicates: await number("duplicates"),
    resumes: await number("resumes"),
  };
}

/** The texts of the messages in the conversation. */
export const messages = (page) => page.locator(".item.message .prose").allTextContents();
