// What the page and its worker say, in the language of the browser.
'use strict';

const words = (() => {
  const LANGUAGES = {
    en: {
      title: 'Calls',
      turn_on: 'Turn on notifications',
      turn_off: 'Turn off',
      texts: 'Messages',
      is_on: 'Notifications are on.',
      is_off: 'Notifications are off.',
      needs_ticket: 'Open this page by the link that you were given.',
      home_screen: 'Put this page on the home screen (Share, Add to Home Screen), and open it from there.',
      unsupported: 'This browser knows no push notifications.',
      denied: 'Notifications are blocked for this page in the settings of the browser.',
      failed: 'It did not work. Try again later, by a fresh link.',
      call: 'Incoming call',
      anonymous: 'Unknown caller',
      missed: { one: '{count} missed call', other: '{count} missed calls' },
      waiting: 'Something is waiting for you.',
    },
    de: {
      title: 'Anrufe',
      turn_on: 'Benachrichtigungen einschalten',
      turn_off: 'Ausschalten',
      texts: 'Nachrichten',
      is_on: 'Benachrichtigungen sind eingeschaltet.',
      is_off: 'Benachrichtigungen sind ausgeschaltet.',
      needs_ticket: 'Öffnen Sie diese Seite über den Link, den Sie bekommen haben.',
      home_screen: 'Legen Sie diese Seite auf den Home-Bildschirm (Teilen, Zum Home-Bildschirm) und öffnen Sie sie von dort.',
      unsupported: 'Dieser Browser kennt keine Push-Benachrichtigungen.',
      denied: 'Benachrichtigungen sind für diese Seite in den Einstellungen des Browsers gesperrt.',
      failed: 'Es hat nicht geklappt. Versuchen Sie es später mit einem neuen Link.',
      call: 'Eingehender Anruf',
      anonymous: 'Unbekannter Anrufer',
      missed: { one: '{count} verpasster Anruf', other: '{count} verpasste Anrufe' },
      waiting: 'Etwas wartet auf Sie.',
    },
    ru: {
      title: 'Звонки',
      turn_on: 'Включить уведомления',
      turn_off: 'Выключить',
      texts: 'Сообщения',
      is_on: 'Уведомления включены.',
      is_off: 'Уведомления выключены.',
      needs_ticket: 'Откройте эту страницу по полученной ссылке.',
      home_screen: 'Добавьте эту страницу на экран «Домой» (Поделиться, На экран «Домой») и откройте её оттуда.',
      unsupported: 'Этот браузер не поддерживает push-уведомления.',
      denied: 'Уведомления для этой страницы запрещены в настройках браузера.',
      failed: 'Не получилось. Попробуйте позже по новой ссылке.',
      call: 'Входящий звонок',
      anonymous: 'Неизвестный абонент',
      missed: {
        one: '{count} пропущенный звонок',
        few: '{count} пропущенных звонка',
        many: '{count} пропущенных звонков',
        other: '{count} пропущенного звонка',
      },
      waiting: 'Вас ждёт сообщение.',
    },
    zh: {
      title: '通话',
      turn_on: '开启通知',
      turn_off: '关闭',
      texts: '消息',
      is_on: '通知已开启。',
      is_off: '通知已关闭。',
      needs_ticket: '请通过收到的链接打开此页面。',
      home_screen: '请将此页面添加到主屏幕（共享、添加到主屏幕），然后从主屏幕打开。',
      unsupported: '此浏览器不支持推送通知。',
      denied: '浏览器设置已禁止此页面的通知。',
      failed: '操作失败，请稍后使用新链接重试。',
      call: '来电',
      anonymous: '未知来电者',
      missed: { other: '{count} 个未接来电' },
      waiting: '有新内容等待您查看。',
    },
  };

  const wished = navigator.languages.map((tag) => tag.toLowerCase().split('-')[0]);
  const language = wished.find((name) => Object.hasOwn(LANGUAGES, name)) ?? 'en';
  const own = LANGUAGES[language];

  return {
    language,
    say: (name) => own[name],
    // The form of a number in this language.
    count: (name, count) => {
      const forms = own[name];
      const form = forms[new Intl.PluralRules(language).select(count)] ?? forms.other;
      return form.replace('{count}', new Intl.NumberFormat(language).format(count));
    },
  };
})();
