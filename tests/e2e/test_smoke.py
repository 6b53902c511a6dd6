import time
from tests.e2e.support.actors import Person, Handler
def test_smoke(suite):
    t=time.time()
    adm=suite.handler('fjordnet','admin','administrator'); print('account',time.time()-t)
    p=Person(suite,'fjordnet','Åse','ukendt@nogen.example')
    print(p.ask('access')); t=time.time()
    print(suite.http.get(suite.url+p.path('')).json())
    p.prove(); print('prove',time.time()-t)
    for l in suite.mail.boxes.letters: print(l.to,l.subject,l.text)
    print(p.status())
    time.sleep(3)
    print(suite.programs[0].said()[-3000:])
