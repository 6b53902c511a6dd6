"""What does the data subject see? Pages of the gateway, served without script, in Danish and English."""

from gateway.portal.door import Door as Door
from gateway.portal.letters import Letter as Letter
from gateway.portal.pages import portal_router as portal_router
